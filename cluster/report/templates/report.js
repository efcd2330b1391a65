"use strict";
const tip = document.getElementById("tip");
for (const chart of document.querySelectorAll("svg.chart[data-chart]")) {
  const data = JSON.parse(chart.dataset.chart);
  const cross = chart.querySelector(".cross");
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const at = (event.clientX - box.left) * Number(chart.dataset.width) / box.width;
    let best = 0;
    data.x.forEach((x, index) => { if (Math.abs(x - at) < Math.abs(data.x[best] - at)) best = index; });
    cross.setAttribute("x1", data.x[best]);
    cross.setAttribute("x2", data.x[best]);
    const head = document.createElement("div");
    head.textContent = "step " + data.steps[best];
    tip.replaceChildren(head);
    for (const line of data.lines) {
      if (line.values[best] === null) continue;
      const row = document.createElement("div");
      const key = document.createElement("i");
      key.className = "c" + line.colour;
      row.append(key, line.name + "  " + line.values[best]);
      tip.append(row);
    }
    tip.hidden = false;
    tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + "px";
    tip.style.top = Math.max(event.clientY - tip.offsetHeight - 12, 8) + "px";
  });
  chart.addEventListener("pointerleave", () => {
    tip.hidden = true;
    cross.setAttribute("x1", -9);
    cross.setAttribute("x2", -9);
  });
}
