"use strict";
// The charts at one epoch: under the pointer, or on the slider. Without this script they show the last one.
const charts = [...document.querySelectorAll(".chart")];
const slider = document.querySelector(".epoch input");

function show(epoch) {
  for (const chart of charts) {
    const low = Number(chart.dataset.low), high = Number(chart.dataset.high);
    const cursor = chart.querySelector(".cursor");
    const inside = epoch !== null && low <= epoch && epoch <= high;
    const x = inside ? `${100 * (epoch - low) / (high - low)}%` : "0";
    cursor.setAttribute("visibility", inside ? "visible" : "hidden");
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    chart.querySelector(".when").textContent = inside ? `epoch ${epoch}` : "last epoch";
    for (const entry of chart.querySelectorAll("[data-values]")) {
      const values = entry.dataset.values.split(",");
      const place = inside ? entry.dataset.epochs.split(",").indexOf(String(epoch)) : values.length - 1;
      entry.querySelector(".value").textContent = values[place] ?? "–";
    }
  }
  document.querySelector(".epoch output").textContent = epoch ?? "last";
  slider.value = epoch ?? slider.max;
}

if (slider) {
  slider.closest(".epoch").hidden = false;
  slider.addEventListener("input", () => show(Number(slider.value)));
  for (const chart of charts) {
    const plot = chart.querySelector(".plot");
    const low = Number(chart.dataset.low), high = Number(chart.dataset.high);
    plot.addEventListener("pointermove", (event) => {
      const box = plot.getBoundingClientRect();
      const epoch = Math.round(low + (high - low) * (event.clientX - box.left) / box.width);
      show(Math.max(Math.ceil(low), Math.min(Math.floor(high), epoch)));
    });
    plot.addEventListener("pointerleave", () => show(null));
  }
}
