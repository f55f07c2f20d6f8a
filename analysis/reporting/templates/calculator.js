// The calculator: what a budget, served tokens and a size give by the law of this page, with the intervals that its verdict
// allows: the numbers of `python -m analysis.predict`, from the same refits (the JSON with the id "calculator-fit").
"use strict";
(() => {
  const HALVINGS = 60;   // of a bracket of ln N: to rounding
  const SMALLER = 40;    // e-foldings below the best size of training alone where the search begins
  const REFERENCE = 0.9; // level at which the spread of draws is read
  const WIDEST = 4;      // times the spread of the draws that a jackknife may ask for, or a part of it
  const NUDGE = 1e-3;    // of a coefficient, to see whether a number depends on it
  const BY_FACTOR = 10;  // a number that ranges over more than this is judged by its logarithm

  function unpack({ base64, shape }) {
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    const values = new Float64Array(bytes.buffer);
    const [rows, width] = shape;
    return Array.from({ length: rows }, (_, row) => values.subarray(row * width, (row + 1) * width));
  }

  function loss([E, A, B, alpha, beta], N, D) {
    return E + A * N ** -alpha + B * D ** -beta;
  }

  // The size of least loss for a training budget C = k N D: Hoffmann et al. 2022, equation 4.
  function bestForTraining([, A, B, alpha, beta], C, k) {
    return ((alpha * A) / (beta * B)) ** (1 / (alpha + beta)) * (C / k) ** (beta / (alpha + beta));
  }

  // d loss / d ln N along a budget that pays k FLOPs a parameter and trained token, and `served` FLOPs a parameter.
  function slope([, A, B, alpha, beta], N, C, k, served) {
    const D = (C / N - served) / k;
    return -alpha * A * N ** -alpha + (beta * B * D ** (-beta - 1) * C) / (k * N);
  }

  function best(law, C, k, served) {
    const alone = bestForTraining(law, C, k);
    if (!served) return alone;
    let high = Math.log(Math.min(alone, C / served));
    let low = high - SMALLER;
    for (let turn = 0; turn < HALVINGS; turn += 1) {
      const middle = (low + high) / 2;
      if (slope(law, Math.exp(middle), C, k, served) > 0) high = middle;
      else low = middle;
    }
    return Math.exp((low + high) / 2);
  }

  // --- intervals

  function quantile(sorted, share) {
    const place = share * (sorted.length - 1);
    const below = Math.floor(place);
    const above = Math.min(below + 1, sorted.length - 1);
    return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
  }

  // Abramowitz and Stegun 7.1.26: to 1.5e-7.
  function normalShare(z) {
    const x = Math.abs(z) / Math.SQRT2;
    const t = 1 / (1 + 0.3275911 * x);
    const series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    const erf = 1 - series * Math.exp(-x * x);
    return z < 0 ? (1 - erf) / 2 : (1 + erf) / 2;
  }

  function normalQuantile(share) {
    let low = -8, high = 8;
    for (let turn = 0; turn < HALVINGS; turn += 1) {
      const middle = (low + high) / 2;
      if (normalShare(middle) < share) low = middle;
      else high = middle;
    }
    return (low + high) / 2;
  }

  // Which quantile of the draws (sorted) is the upper end of the interval: as wide as the geometric mean of what the draws
  // and Student's interval with the jackknife's standard error ask for (analysis/trust/interval.py).
  function upperShare(draws, estimate, leftOut, level, reach) {
    const plain = (1 + level) / 2;
    let others = leftOut.filter(Number.isFinite);
    if (others.length < 2 || !Number.isFinite(estimate)) return plain;
    if (estimate > 0 && draws[0] > 0 && others.every((one) => one > 0)) {
      draws = draws.map(Math.log);
      others = others.map(Math.log);
      estimate = Math.log(estimate);
    }
    const squares = others.reduce((sum, one) => sum + (one - estimate) ** 2, 0);
    const error = Math.sqrt(((others.length - 1) / others.length) * squares);
    const reference = (1 + REFERENCE) / 2;
    const spread = (quantile(draws, reference) - quantile(draws, 1 - reference)) / 2 / normalQuantile(reference);
    if (!(spread > 0) || !Number.isFinite(error)) return plain;
    const byDraws = normalQuantile(plain);
    const asked = (reach * error) / spread;
    const byJackknife = Math.min(Math.max(asked, byDraws / WIDEST), byDraws * WIDEST);
    return normalShare(Math.sqrt(byDraws * byJackknife));
  }

  // An interval as it may be shown, or why there is none (analysis/trust/verdict.py).
  // isDerived: the number is made of coefficients, as the best size is, and needs all of those that it depends on.
  function judge(fit, quantity, isDerived = false) {
    const value = quantity(fit.law);
    if (fit.nothing) return { value, why: fit.nothing };
    const needed = isDerived ? Object.keys(fit.withheld).filter((name) => dependsOn(fit, quantity, name)) : [];
    if (needed.length) {
      const first = needed.find((name) => !fit.withheld[name].endsWith(fit.not_known)) ?? needed[0];
      return { value, why: `${first} is ${fit.not_known}: ${fit.withheld[first]}` };
    }
    if (!fit.draws.length) return { value };  // fitted without replicates
    const draws = fit.draws.map(quantity).filter(Number.isFinite).sort((one, other) => one - other);
    if (draws.length < 2) return { value };
    const upper = upperShare(draws, value, fit.leftOut.map(quantity), fit.level, fit.reach);
    const low = quantile(draws, 1 - upper), high = quantile(draws, upper);
    if (!fit.region.length) return { value, low, high };
    const over = fit.region.map(quantity);
    const least = Math.min(...over), most = Math.max(...over);
    if (!over.every(Number.isFinite)) return { value, why: "what the rows allow has no end" };
    if (timesWider(least, most, low, high) > fit.farthest) {
      return { value, why: `the rows allow ${text(least, 3)} to ${text(most, 3)}` };
    }
    const near = over.filter((_, at) => fit.reached[at]);
    return { value, low: Math.min(low, ...near), high: Math.max(high, ...near) };
  }

  function dependsOn(fit, quantity, name) {
    const place = fit.names.indexOf(name);
    if (place < 0) return false;  // an exponent of the optimum, which is derived itself
    const moved = [...fit.law];
    moved[place] = moved[place] === 0 ? NUDGE : moved[place] * (1 + NUDGE);
    const here = quantity(fit.law), there = quantity(moved);
    if (!Number.isFinite(here) || !Number.isFinite(there)) return true;
    return Math.abs(there - here) > 1e-9 * NUDGE * Math.max(Math.abs(here), Math.abs(there));
  }

  function timesWider(least, most, low, high) {
    let range = most - least, width = high - low;
    if (Math.min(least, low) > 0 && most > BY_FACTOR * least) {
      range = Math.log(most / least);
      width = Math.log(high / low);
    }
    if (range <= 1e-9 * Math.max(Math.abs(least), Math.abs(most))) return 0;
    return width > 0 ? range / width : Infinity;
  }

  // --- what is asked, and the answer

  // ask: { C, served, N }: N null for the best size. served: tokens over the model's life.
  function answer(fit, { C, served, N }) {
    const k = fit.k;
    const serving = (k / 3) * served;
    if (N !== null) {
      const D = (C / N - serving) / k;
      return {
        N: { value: N, chosen: true },
        D: { value: D, chosen: true },
        ratio: { value: D / N, chosen: true },
        loss: D > 0 ? judge(fit, (law) => loss(law, N, D)) : { value: NaN },
      };
    }
    const found = new Map();  // the best size of each law: several numbers are made of it
    const size = (law) => {
      if (!found.has(law)) found.set(law, best(law, C, k, serving));
      return found.get(law);
    };
    const tokens = (law) => (C / size(law) - serving) / k;
    return {
      N: judge(fit, size, true),
      D: judge(fit, tokens, true),
      ratio: judge(fit, (law) => tokens(law) / size(law), true),
      loss: judge(fit, (law) => loss(law, size(law), tokens(law)), true),
    };
  }

  // --- numbers as people write and read them

  const UNITS = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]];

  function text(value, digits) {
    if (!Number.isFinite(value)) return "–";
    if (value === 0 || (Math.abs(value) >= 1e-3 && Math.abs(value) < 1e5)) return String(+value.toPrecision(digits));
    return value.toExponential(Math.max(digits - 1, 1));
  }

  function human(value, digits = 3) {
    if (!Number.isFinite(value)) return "–";
    const rounded = +value.toPrecision(digits);
    for (const [limit, unit] of UNITS) {
      if (rounded >= limit && rounded < 1e15) return `${+(value / limit).toPrecision(digits)}${unit}`;
    }
    return text(value, digits);
  }

  function parse(written) {
    const found = /^\s*([\d.]+(?:e[+-]?\d+)?)\s*([kMBT]?)\s*$/i.exec(written);
    if (!found) return NaN;
    const unit = UNITS.find(([, letter]) => letter.toLowerCase() === found[2].toLowerCase());
    return +found[1] * (unit ? unit[0] : 1);
  }

  // --- the page

  const box = document.getElementById("calculator");
  const data = JSON.parse(document.getElementById("calculator-fit").textContent);
  const fit = {
    ...data,
    draws: unpack(data.draws),
    leftOut: unpack(data.left_out),
    region: data.region ? unpack(data.region.points) : [],
    reached: data.region?.reached,
    farthest: data.region?.farthest,
  };
  const STEPS = 1000;  // of a slider
  const CURVE = 41;    // sizes of the drawn curve
  const AROUND = 30;   // times below and above the middle of the curve
  const SLIDERS = {
    C: { low: fit.least, high: fit.largest * 1000, write: (value) => text(value, 3) },
    served: { low: 1e9, high: 1e16, zero: true, write: human },
    N: { low: fit.sizes[0] / 10, high: fit.sizes[1] * 1000, write: human },
  };
  const sliders = {};
  for (const [name, scale] of Object.entries(SLIDERS)) {
    const range = box.querySelector(`input[type=range][name=${name}]`);
    const field = box.querySelector(`input[type=text][name=${name}]`);
    sliders[name] = { ...scale, range, field, value: null };
    range.max = STEPS;
    range.addEventListener("input", () => { set(name, at(sliders[name], +range.value)); update(); });
    field.addEventListener("change", () => {
      const value = parse(field.value);
      const isGood = value > 0 || (value === 0 && scale.zero);
      if (isGood) set(name, value);
      else field.value = scale.write(sliders[name].value);  // what was written is no number: the last one stands
      update();
    });
  }
  const chooses = box.querySelector("input[name=choose]");
  chooses.addEventListener("change", update);

  // The value of a place of a slider: even steps of its logarithm; the first place is 0 where the quantity may be.
  function at({ low, high, zero }, place) {
    if (zero && place === 0) return 0;
    const value = low * (high / low) ** (place / STEPS);
    return +value.toPrecision(3);
  }

  function set(name, value) {
    const slider = sliders[name];
    slider.value = value;
    slider.field.value = slider.write(value);
    const place = value > 0 ? (STEPS * Math.log(value / slider.low)) / Math.log(slider.high / slider.low) : 0;
    slider.range.value = Math.min(Math.max(Math.round(place), 0), STEPS);
    slider.range.setAttribute("aria-valuetext", slider.field.value);
  }

  function update() {
    const ask = { C: sliders.C.value, served: sliders.served.value, N: chooses.checked ? sliders.N.value : null };
    sliders.N.range.disabled = sliders.N.field.disabled = !chooses.checked;
    const numbers = answer(fit, ask);
    if (ask.N === null && !numbers.N.why) set("N", numbers.N.value);
    show(ask, numbers);
    draw(ask, numbers);
  }

  const DIGITS = { N: 3, D: 3, ratio: 3, loss: 4 };

  function show(ask, numbers) {
    const reasons = new Set();
    for (const [name, one] of Object.entries(numbers)) {
      const write = name === "N" || name === "D" ? human : text;
      const row = box.querySelector(`tr[data-number=${name}]`);
      const impossible = !(one.value > 0) || !Number.isFinite(one.value);
      row.cells[1].textContent = one.why || impossible ? "–" : write(one.value, DIGITS[name]);
      const between = one.low === undefined ? "" : `${write(one.low, DIGITS[name])} to ${write(one.high, DIGITS[name])}`;
      row.cells[2].textContent = one.why ? "not known" : one.chosen ? "as chosen" : between;
      if (one.why) reasons.add(one.why);
    }
    const notes = [...reasons].map((why) => `The design of the runs does not support this number: ${why}.`);
    const k = fit.k;
    const serving = numbers.N.why ? 0 : ((k / 3) * ask.served * numbers.N.value) / ask.C;
    if (ask.N !== null && !(numbers.D.value > 0)) notes.push("This budget does not pay for that size and what it serves.");
    else if (serving > 0) notes.push(`${(100 * serving).toPrecision(3)}% of the budget is serving.`);
    const reach = ask.C / fit.largest;
    if (reach > 10) notes.push(`${text(reach, 3)} times beyond the largest budget of the runs.`);
    if (ask.N !== null && numbers.D.value > 0) {
      const bestLoss = answer(fit, { ...ask, N: null });
      const excess = numbers.loss.value / bestLoss.loss.value - 1;
      if (!bestLoss.N.why && !numbers.loss.why) notes.push(`Loss ${(100 * excess).toPrecision(2)}% above that of the best size.`);
    }
    box.querySelector("[data-notes]").textContent = notes.join(" ");
  }

  // --- loss over size at the budget that is chosen

  const SVG = "http://www.w3.org/2000/svg";
  const FRAME = { left: 52, right: 12, top: 20, bottom: 40, width: 560, height: 260 };

  function element(name, attributes, content = "") {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = content;
    return made;
  }

  function draw(ask, numbers) {
    const chart = element("svg", {
      viewBox: `0 0 ${FRAME.width} ${FRAME.height}`,
      role: "img",
      "aria-label": "Loss over size at this budget, with its interval; the dot is the size above.",
    });
    box.querySelector("[data-drawing]").replaceChildren(chart);
    const middle = ask.N ?? (numbers.N.why ? fit.sizes[1] : numbers.N.value);
    const points = [];
    for (let step = 0; step < CURVE && middle > 0; step += 1) {
      const N = middle * AROUND ** ((2 * step) / (CURVE - 1) - 1);
      const { loss: one } = answer(fit, { ...ask, N });
      if (Number.isFinite(one.value) && !one.why) points.push({ N, ...one });
    }
    if (points.length < 2) {
      chart.append(element("text", { x: FRAME.left, y: 40 }, "The runs do not support a loss at this budget."));
      return;
    }
    const [least, most] = heights(points);
    const { left, right, top, bottom, width, height } = FRAME;
    const first = points[0].N, last = points[points.length - 1].N;
    const x = (N) => left + ((width - left - right) * Math.log(N / first)) / Math.log(last / first);
    const y = (value) => top + ((height - top - bottom) * (most - value)) / (most - least);
    const path = (list) => list.map(([N, value]) => `${x(N).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
    for (const value of ticks(least, most)) {
      chart.append(element("line", { x1: left, x2: width - right, y1: y(value), y2: y(value), class: "rule" }));
      chart.append(element("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, text(value, 3)));
    }
    const multiples = last < 30 * first ? [1, 2, 5] : [1];  // of powers of ten that are labelled
    for (let power = Math.floor(Math.log10(first)); 10 ** power <= last; power += 1) {
      for (const size of multiples.map((factor) => factor * 10 ** power)) {
        if (size < first || size > last) continue;
        chart.append(element("text", { x: x(size), y: height - bottom + 16, "text-anchor": "middle" }, human(size)));
      }
    }
    chart.append(element("text", { x: (left + width) / 2, y: height - 6, "text-anchor": "middle" }, "parameters N at this budget"));
    chart.append(element("text", { x: left, y: top - 2, "text-anchor": "end" }, "loss"));
    if (points[0].low !== undefined) {
      const upper = points.map((point) => [point.N, Math.min(point.high, most)]);
      const lower = points.map((point) => [point.N, Math.max(point.low, least)]).reverse();
      chart.append(element("polygon", { points: path([...upper, ...lower]), class: "band" }));
    }
    chart.append(element("polyline", { points: path(points.map((point) => [point.N, point.value])), class: "curve" }));
    if (!numbers.N.why && !numbers.loss.why && Number.isFinite(numbers.loss.value)) {
      chart.append(element("circle", { cx: x(numbers.N.value), cy: y(numbers.loss.value), r: 5, class: "chosen" }));
    }
  }

  // The ends of the vertical axis: all of the curve, and as much of a wild band as the curve is high; a flat one has room.
  function heights(points) {
    const values = points.map((point) => point.value);
    const low = Math.min(...values), high = Math.max(...values);
    const room = Math.max(high - low, 0.01 * Math.abs(high), 1e-6);
    const lows = points.map((point) => point.low ?? point.value);
    const highs = points.map((point) => point.high ?? point.value);
    return [Math.max(Math.min(low, ...lows), low - room), Math.min(Math.max(high, ...highs), high + room)].map(
      (end, at, [bottom, top]) => (top > bottom ? end : end + (at ? room : -room)),
    );
  }

  function ticks(least, most) {
    const rough = (most - least) / 4;
    const unit = 10 ** Math.floor(Math.log10(rough));
    const step = unit * [1, 2, 5, 10].find((factor) => factor * unit >= rough);
    const found = [];
    for (let value = Math.ceil(least / step) * step; value <= most; value += step) found.push(value);
    return found;
  }

  set("C", fit.largest * 10);
  set("served", 0);
  set("N", fit.sizes[1]);
  update();
  // For tests, and for whoever asks a number of the page by hand.
  window.lossgrid = { answer: (ask) => answer(fit, ask) };
})();
