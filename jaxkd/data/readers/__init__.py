"""One module for each way a data set is stored; `jaxkd.data.load` chooses."""
