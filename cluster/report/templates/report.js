"use strict";
const tip = document.getElementById("tip");
for (const chart of document.querySelectorAll("svg.chart[data-chart]")) {
  const data = JSON.parse(chart.dataset.chart);
  const places = data.x.split(" ").map(Number);
  const steps = data.steps.split(" ");
  const lines = data.lines.map((line) => ({ ...line, values: line.values.split(" ") }));
  const cross = chart.querySelector(".cross");
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const at = (event.clientX - box.left) * Number(chart.dataset.width) / box.width;
    let best = 0;
    places.forEach((x, index) => { if (Math.abs(x - at) < Math.abs(places[best] - at)) best = index; });
    cross.setAttribute("x1", places[best]);
    cross.setAttribute("x2", places[best]);
    const head = document.createElement("div");
    head.textContent = "step " + steps[best];
    tip.replaceChildren(head);
    for (const line of lines) {
      if (line.values[best] === "-") continue;
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
