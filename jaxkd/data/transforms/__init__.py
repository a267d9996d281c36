"""Random views of images: on the device for data in memory, on the host for images from files."""
