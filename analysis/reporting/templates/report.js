// A run that is pointed at, tapped or reached by keyboard shows its row and is ringed in every figure and in the table.
"use strict";
(() => {
  const REACH = { mouse: 14, pen: 20, touch: 30 };  // pixels from a run at which it counts as pointed at
  const tip = document.getElementById("tip");
  const box = document.getElementById("runs");
  const heads = [...box.querySelectorAll("thead th")].map((cell) => cell.textContent);
  const rows = new Map([...box.querySelectorAll("tr[data-run]")].map((row) => [row.dataset.run, row]));
  const order = [...rows.keys()];
  const charts = [...document.querySelectorAll("svg[data-chart]")].map((svg) => {
    const marks = [...svg.querySelectorAll("[data-run]")].map((mark) => ({
      mark, run: mark.dataset.run, x: +mark.getAttribute("x"), y: +mark.getAttribute("y"),
    }));
    marks.sort((one, other) => one.x - other.x || one.y - other.y);
    return { svg, marks, at: -1 };
  });
  let current = null, anchor = null;  // the run that is shown, and the mark or cell that the tooltip stands beside

  function make(name, text) {
    const element = document.createElement(name);
    element.textContent = text;
    return element;
  }

  function clear() {
    for (const ring of document.querySelectorAll(".ring")) ring.remove();
    for (const hot of document.querySelectorAll(".hot")) hot.classList.remove("hot");
    tip.hidden = true;
    current = anchor = null;
  }

  // The tooltip beside its anchor, inside the window; narrow screens put it at an edge (report.css).
  function place() {
    const near = anchor.getBoundingClientRect();
    const { width, height } = tip.getBoundingClientRect();
    const aside = box.contains(anchor) ? innerWidth - width - 8 : near.left - 14 - width;
    const left = near.right + 14 + width < innerWidth ? near.right + 14 : Math.max(4, aside);
    tip.style.left = `${left}px`;
    tip.classList.toggle("above", near.top > innerHeight / 2);
    tip.style.top = `${Math.min(Math.max(4, near.top - height / 2), Math.max(4, innerHeight - height - 4))}px`;
  }

  function show(run, beside, fromTable) {
    if (run !== current) {
      clear();
      current = run;
      const row = rows.get(run);
      const list = document.createElement("dl");
      if (row) {
        [...row.cells].slice(1, "name" in row.dataset ? -1 : undefined).forEach((cell) => {
          list.append(make("dt", heads[cell.cellIndex]), make("dd", cell.textContent));
        });
        row.classList.add("hot");
        if (!fromTable) box.scrollTop = row.offsetTop - box.clientHeight / 2;
      }
      tip.replaceChildren(make("b", `row ${run}${row?.dataset.name ? `: ${row.dataset.name}` : ""}`), list);
      for (const { svg, marks } of charts) {
        for (const { mark, x, y } of marks.filter((one) => one.run === run)) {
          mark.classList.add("hot");
          const ring = document.createElementNS("http://www.w3.org/2000/svg", "circle");
          for (const [key, value] of Object.entries({ class: "ring", cx: x, cy: y, r: 6.5 })) ring.setAttribute(key, value);
          svg.append(ring);
        }
      }
    }
    anchor = beside;
    tip.hidden = false;
    place();
  }

  // An entry of a legend hides and shows its series, by a click or by Enter; what is hidden cannot be pointed at.
  for (const svg of document.querySelectorAll("figure svg")) {
    const entries = new Map();
    for (const part of svg.querySelectorAll("[data-entry]")) {
      const { entry } = part.dataset;
      entries.set(entry, [...(entries.get(entry) ?? []), part]);
    }
    for (const [entry, parts] of entries) {
      const series = [...svg.querySelectorAll(`[data-series="${entry}"]`)];
      const button = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      const boxes = parts.map((part) => part.getBBox());
      const left = Math.min(...boxes.map((one) => one.x)), top = Math.min(...boxes.map((one) => one.y));
      const place = {
        x: left - 2, y: top - 2,
        width: Math.max(...boxes.map((one) => one.x + one.width)) - left + 4,
        height: Math.max(...boxes.map((one) => one.y + one.height)) - top + 4,
        class: "entry", tabindex: 0, role: "button", "aria-pressed": true, "data-of": entry,
        "aria-label": "show this series",
      };
      for (const [key, value] of Object.entries(place)) button.setAttribute(key, value);
      const toggle = (event) => {
        event.stopPropagation();
        event.preventDefault();
        const isShown = button.getAttribute("aria-pressed") === "true";
        button.setAttribute("aria-pressed", !isShown);
        for (const one of series) one.classList.toggle("off", isShown);
        for (const part of parts) part.classList.toggle("faint", isShown);
        clear();
      };
      button.addEventListener("click", toggle);
      button.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") toggle(event); });
      svg.append(button);
    }
  }

  const CLOSEST = 20;  // times that a figure can be enlarged
  const STEP = 1.5;    // of the keys and the buttons

  // A figure is enlarged by + and -, by the wheel with Ctrl, or by its buttons, and moved by dragging; 0 shows it whole.
  for (const svg of document.querySelectorAll("figure svg")) {
    const { x, y, width, height } = svg.viewBox.baseVal;
    const view = { x, y, width, height };
    const middle = () => ({ x: view.x + view.width / 2, y: view.y + view.height / 2 });
    const within = (value, least, most) => Math.min(Math.max(value, least), most);
    const show = () => {
      if (view.width >= width) Object.assign(view, { x, y, width, height });
      view.x = within(view.x, x, x + width - view.width);
      view.y = within(view.y, y, y + height - view.height);
      svg.setAttribute("viewBox", `${view.x} ${view.y} ${view.width} ${view.height}`);
      svg.classList.toggle("enlarged", view.width < width);
    };
    const enlarge = (factor, point = middle()) => {
      const wide = within(view.width / factor, width / CLOSEST, width);
      const share = wide / view.width;
      view.x = point.x - (point.x - view.x) * share;
      view.y = point.y - (point.y - view.y) * share;
      view.width *= share;
      view.height *= share;
      show();
    };
    const at = (event) => new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    svg.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;  // the wheel alone scrolls the page
      event.preventDefault();
      enlarge(1.002 ** -event.deltaY, at(event));
    }, { passive: false });
    svg.addEventListener("keydown", (event) => {
      const factor = { "+": STEP, "=": STEP, "-": 1 / STEP, 0: 1 / CLOSEST }[event.key];
      if (factor) { event.preventDefault(); enlarge(factor); }
    });
    svg.addEventListener("pointermove", (event) => {
      if (event.buttons !== 1 || event.pointerType === "touch" || view.width >= width) return;
      const scale = svg.getScreenCTM().a;
      view.x -= event.movementX / scale;
      view.y -= event.movementY / scale;
      show();
    });
    const buttons = document.createElement("span");
    buttons.className = "zoom";
    for (const [label, name, factor] of [["+", "enlarge", STEP], ["−", "make smaller", 1 / STEP], ["whole", "show whole", 1 / CLOSEST]]) {
      const button = make("button", label);
      button.type = "button";
      button.setAttribute("aria-label", `${name}: ${svg.closest("figure").id}`);
      button.addEventListener("click", () => enlarge(factor));
      buttons.append(button);
    }
    svg.closest("figure").querySelector("figcaption").append(buttons);
  }

  for (const chart of charts) {
    const { svg, marks } = chart;
    const nearest = (event) => {
      const matrix = svg.getScreenCTM();
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix.inverse());
      const distance = (one) => Math.hypot(one.x - point.x, one.y - point.y);
      const seen = marks.filter(({ mark }) => !mark.closest(".off"));
      if (!seen.length) return null;
      const found = seen.reduce((best, one) => (distance(one) < distance(best) ? one : best));
      return distance(found) * matrix.a <= (REACH[event.pointerType] ?? REACH.mouse) ? found : null;
    };
    const point = (event) => {
      const found = nearest(event);
      if (found) show(found.run, found.mark);
      else clear();
    };
    const step = (at) => {
      chart.at = Math.min(Math.max(at, 0), marks.length - 1);
      show(marks[chart.at].run, marks[chart.at].mark);
    };
    svg.addEventListener("pointermove", (event) => { if (event.pointerType !== "touch") point(event); });
    svg.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") clear(); });
    svg.addEventListener("mousedown", (event) => event.preventDefault());  // focus is for the keyboard
    svg.addEventListener("click", point);
    svg.addEventListener("focus", () => { if (svg.matches(":focus-visible")) step(chart.at); });
    svg.addEventListener("blur", clear);
    svg.addEventListener("keydown", (event) => {
      const moves = { ArrowRight: chart.at + 1, ArrowLeft: chart.at - 1, Home: 0, End: marks.length - 1 };
      if (event.key in moves) { event.preventDefault(); step(moves[event.key]); }
    });
  }

  rows.forEach((row, run) => {
    row.tabIndex = run === order[0] ? 0 : -1;  // one stop of the tab key; arrows move from row to row
    const touch = () => show(run, row.cells[row.cells.length - 1], true);
    row.addEventListener("pointerenter", (event) => {
      if (event.pointerType === "touch") return;
      touch();
      tip.hidden = true;  // the row itself is under the pointer
    });
    row.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") clear(); });
    row.addEventListener("click", touch);
    row.addEventListener("focus", touch);
    row.addEventListener("blur", clear);
    row.addEventListener("keydown", (event) => {
      const next = order[order.indexOf(run) + ({ ArrowDown: 1, ArrowUp: -1 }[event.key] ?? NaN)];
      if (next !== undefined) { event.preventDefault(); rows.get(next).focus(); }
    });
  });

  document.addEventListener("keydown", (event) => { if (event.key === "Escape") clear(); });
  document.addEventListener("click", (event) => { if (!event.target.closest("svg[data-chart], tr[data-run]")) clear(); });
  addEventListener("scroll", () => {
    if (!anchor) return;
    const { top, bottom } = anchor.getBoundingClientRect();
    if (bottom < 0 || top > innerHeight) clear();
    else place();
  }, { passive: true });
})();
