// The calculator: what a budget, served tokens and a size give by the laws of this page, with the intervals that their
// verdicts allow: the numbers of `python -m analysis.predict`, from the same refits (the JSON with the id "calculator-fit").
// A law comes as a program, steps on the results of earlier steps (analysis/reporting/traced.py).
"use strict";
(() => {
  const HALVINGS = 64;   // of a bracket of ln N: to rounding
  const SIZES = 96;      // tried for the best one at a budget, before the search between the nearest
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

  // --- laws as programs

  // What a step does to its parts, and its slope from theirs: [value, (parts, slopes, value) => slope].
  const STEP = {
    "+": [(a, b) => a + b, (v, d) => d[0] + d[1]],
    "-": [(a, b) => a - b, (v, d) => d[0] - d[1]],
    "*": [(a, b) => a * b, ([a, b], d) => d[0] * b + a * d[1]],
    "/": [(a, b) => a / b, ([a, b], d) => (d[0] - (a / b) * d[1]) / b],
    "^": [(a, b) => a ** b, ([a, b], d, value) => (d[0] ? b * a ** (b - 1) * d[0] : 0) + (d[1] ? value * Math.log(a) * d[1] : 0)],
    exp: [Math.exp, (v, d, value) => value * d[0]],
    log: [Math.log, ([a], d) => d[0] / a],
    expm1: [Math.expm1, (v, d, value) => (value + 1) * d[0]],
    log1p: [Math.log1p, ([a], d) => d[0] / (1 + a)],
    log2: [Math.log2, ([a], d) => d[0] / a / Math.LN2],
    log10: [Math.log10, ([a], d) => d[0] / a / Math.LN10],
    sqrt: [Math.sqrt, (v, d, value) => d[0] / 2 / value],
    tanh: [Math.tanh, (v, d, value) => (1 - value * value) * d[0]],
    negative: [(a) => -a, (v, d) => -d[0]],
    abs: [Math.abs, ([a], d) => (a < 0 ? -d[0] : d[0])],
    sign: [Math.sign, () => 0],
    max: [(a, b) => Math.max(a, b), ([a, b], d) => (a >= b ? d[0] : d[1])],
    min: [(a, b) => Math.min(a, b), ([a, b], d) => (a <= b ? d[0] : d[1])],
    where: [(yes, a, b) => (yes ? a : b), ([yes], d) => (yes ? d[1] : d[2])],
    isfinite: [(a) => +Number.isFinite(a), () => 0],
    and: [(a, b) => +(a && b), () => 0],
    or: [(a, b) => +(a || b), () => 0],
    ">": [(a, b) => +(a > b), () => 0],
    ">=": [(a, b) => +(a >= b), () => 0],
    "<": [(a, b) => +(a < b), () => 0],
    "<=": [(a, b) => +(a <= b), () => 0],
    "==": [(a, b) => +(a === b), () => 0],
    "!=": [(a, b) => +(a !== b), () => 0],
  };
  const NUMBERS = { nan: NaN, inf: Infinity, "-inf": -Infinity };

  // Return the function (law, inputs, name) => number of a program, and (law, inputs, slopes, name) => [number, its slope].
  function compile({ steps, results }) {
    const values = new Array(steps.length), slopes = new Array(steps.length);
    const leaf = (step, law, inputs) => {
      if (step[0] === "number") return typeof step[1] === "number" ? step[1] : NUMBERS[step[1]];
      return step[0] === "coefficient" ? law[step[1]] : inputs[step[1]];
    };
    const run = (law, inputs) => {
      for (let at = 0; at < steps.length; at += 1) {
        const step = steps[at], known = STEP[step[0]];
        values[at] = known ? known[0](values[step[1]], values[step[2]], values[step[3]]) : leaf(step, law, inputs);
      }
    };
    return {
      names: Object.keys(results),
      value(law, inputs, name) {
        run(law, inputs);
        return values[results[name]];
      },
      withSlope(law, inputs, moves, name) {
        run(law, inputs);
        for (let at = 0; at < steps.length; at += 1) {
          const [kind, ...parts] = steps[at], known = STEP[kind];
          if (known) slopes[at] = known[1](parts.map((part) => values[part]), parts.map((part) => slopes[part]), values[at]);
          else slopes[at] = kind === "input" ? moves[parts[0]] ?? 0 : 0;
        }
        return [values[results[name]], slopes[results[name]]];
      },
    };
  }

  function within(fit, value) {
    const [low, high] = fit.range;
    return Math.min(Math.max(value, low ?? -Infinity), high ?? Infinity);
  }

  const predicted = (fit, law, N, D, others) => fit.program.value(law, { ...others, N, D }, "value");

  // The size of least loss for a budget that pays k FLOPs a parameter and trained token, and `served` FLOPs a parameter: by
  // the law's own formula, else where the slope along the budget changes its sign beside the best of many sizes.
  function best(fit, law, C, served, others) {
    if (fit.optimum && !served) return fit.optimum.value(law, { C }, "N");
    const tokens = (N) => (C / N - served) / fit.k;
    const largest = Math.log(served ? Math.min(C / fit.k, C / served) : C / fit.k);
    const losses = [];
    for (let at = 0; at < SIZES; at += 1) {
      const N = Math.exp((largest * at) / (SIZES - 1)), D = tokens(N);
      const loss = D > 0 ? predicted(fit, law, N, D, others) : NaN;
      losses.push(Number.isFinite(loss) ? loss : Infinity);
    }
    const place = losses.indexOf(Math.min(...losses));
    const isInside = place > 0 && (place < SIZES - 1 || served) && Number.isFinite(losses[place]);
    if (!isInside) return NaN;
    let low = (largest * (place - 1)) / (SIZES - 1), high = (largest * Math.min(place + 1, SIZES - 1)) / (SIZES - 1);
    for (let turn = 0; turn < HALVINGS; turn += 1) {
      const middle = (low + high) / 2, N = Math.exp(middle);
      const [, slope] = fit.program.withSlope(law, { ...others, N, D: tokens(N) }, { N, D: -C / N / fit.k }, "value");
      if (slope > 0 || !(tokens(N) > 0)) high = middle;
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
    if (fit.nothing) return { value, why: fit.nothing, known: !isDerived };  // the number stands, without an interval
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

  // ask: { C, served, N, others }: N null for the best size. served: tokens over the model's life; others: of the law.
  function answer(fit, { C, served, N, others = fit.middle }) {
    const k = fit.k;
    const serving = (k / 3) * served;
    if (N !== null || !fit.searches) {
      const D = (C / N - serving) / k;
      const found = {
        N: { value: N, chosen: true },
        D: { value: D, chosen: true },
        ratio: { value: D / N, chosen: true },
        loss: D > 0 ? judge(fit, (law) => within(fit, predicted(fit, law, N, D, others))) : { value: NaN },
      };
      for (const name of fit.program.names.filter((one) => one !== "value")) {
        const quantity = (law) => fit.program.value(law, { ...others, N, D }, name);
        found[name] = D > 0 ? judge(fit, quantity, !fit.predicts.includes(name)) : { value: NaN };
      }
      return found;
    }
    const sizes = new Map();  // the best size of each law: several numbers are made of it
    const size = (law) => {
      if (!sizes.has(law)) sizes.set(law, best(fit, law, C, serving, others));
      return sizes.get(law);
    };
    const tokens = (law) => (C / size(law) - serving) / k;
    return {
      N: judge(fit, size, true),
      D: judge(fit, tokens, true),
      ratio: judge(fit, (law) => tokens(law) / size(law), true),
      loss: judge(fit, (law) => within(fit, predicted(fit, law, size(law), tokens(law), others)), true),
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
    const found = /^\s*(-?[\d.]+(?:e[+-]?\d+)?)\s*([kMBT]?)\s*$/i.exec(written);
    if (!found) return NaN;
    const unit = UNITS.find(([, letter]) => letter.toLowerCase() === found[2].toLowerCase());
    return +found[1] * (unit ? unit[0] : 1);
  }

  // --- the page

  const box = document.getElementById("calculator");
  const fits = JSON.parse(document.getElementById("calculator-fit").textContent).map((data) => ({
    ...data,
    program: data.program && compile(data.program),
    optimum: data.optimum && compile(data.optimum),
    draws: unpack(data.draws),
    leftOut: unpack(data.left_out),
    region: data.region ? unpack(data.region.points) : [],
    reached: data.region?.reached,
    farthest: data.region?.farthest,
    middle: Object.fromEntries(data.others.map(({ name, ends: [low, high] }) => [name, low > 0 ? Math.sqrt(low * high) : (low + high) / 2])),
  }));
  let fit = fits[0];
  const STEPS = 1000;  // of a slider
  const CURVE = 41;    // sizes of the drawn curve
  const AROUND = 30;   // times below and above the middle of the curve
  const scales = () => ({
    C: { low: fit.least, high: fit.largest * 1000, write: (value) => text(value, 3) },
    served: { low: 1e9, high: 1e16, zero: true, write: human },
    N: { low: fit.sizes[0] / 10, high: fit.sizes[1] * 1000, write: human },
  });
  const sliders = {};
  for (const name of Object.keys(scales())) {
    const range = box.querySelector(`input[type=range][name=${name}]`);
    const field = box.querySelector(`input[type=text][name=${name}]`);
    listen(name, range, field, (value) => value > 0 || (value === 0 && sliders[name].zero));
  }
  const chooses = box.querySelector("input[name=choose]");
  chooses.addEventListener("change", update);
  const chooser = box.querySelector("select");
  chooser?.addEventListener("change", () => begin(fits[chooser.selectedIndex]));

  function listen(name, range, field, isGood) {
    sliders[name] = { range, field, value: null };
    range.max = STEPS;
    range.addEventListener("input", () => { set(name, at(sliders[name], +range.value)); update(); });
    field.addEventListener("change", () => {
      const value = parse(field.value);
      if (isGood(value)) set(name, value);
      else field.value = sliders[name].write(sliders[name].value);  // what was written is no number: the last one stands
      update();
    });
  }

  // Show one of the laws: its own scales, and a slider for each input that it has beside N and D.
  function begin(chosen) {
    fit = chosen;
    for (const [name, scale] of Object.entries(scales())) Object.assign(sliders[name], scale);
    const others = box.querySelector("[data-others]");
    others.replaceChildren();
    for (const { name, meaning, ends: [low, high] } of fit.others) {
      const label = make("label", { for: `ask-${name}` }, `${name}: ${meaning}`);
      const range = make("input", { type: "range", id: `ask-${name}`, name, min: 0 });
      const field = make("input", { type: "text", name, "aria-label": `${name}: ${meaning}` });
      others.append(label, range, field);
      listen(name, range, field, Number.isFinite);
      const isEven = !(low > 0) || high <= 10 * low;
      Object.assign(sliders[name], { low, high: high > low ? high : low + 1, isEven, write: (value) => text(value, 4) });
      set(name, fit.middle[name]);
    }
    box.querySelector("[data-factor]").textContent = text(fit.k, 3);
    box.querySelector("[data-formula]").textContent = `${fit.name}: ${fit.formula}`;
    const rows = box.querySelector("tr[data-number=loss]").parentNode;
    rows.querySelectorAll("[data-own]").forEach((row) => row.remove());
    box.querySelector("tr[data-number=loss] td").textContent = fit.target;
    for (const name of fit.program?.names.filter((one) => one !== "value") ?? []) {
      const row = make("tr", { "data-number": name, "data-own": "" });
      row.append(make("td", {}, name), make("td", {}), make("td", {}));
      rows.append(row);
    }
    chooses.disabled = !fit.searches;
    chooses.checked = !fit.searches;
    set("C", fit.largest * 10);
    set("served", 0);
    set("N", fit.sizes[1]);
    update();
  }

  function make(name, attributes, content = "") {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = content;
    return made;
  }

  // The value of a place of a slider: even steps of its logarithm; the first place is 0 where the quantity may be.
  function at({ low, high, zero, isEven }, place) {
    if (zero && place === 0) return 0;
    const value = isEven ? low + ((high - low) * place) / STEPS : low * (high / low) ** (place / STEPS);
    return +value.toPrecision(3);
  }

  function set(name, value) {
    const slider = sliders[name];
    slider.value = value;
    slider.field.value = slider.write(value);
    const share = slider.isEven
      ? (value - slider.low) / (slider.high - slider.low)
      : value > 0 ? Math.log(value / slider.low) / Math.log(slider.high / slider.low) : 0;
    const place = STEPS * share;
    slider.range.value = Math.min(Math.max(Math.round(place), 0), STEPS);
    slider.range.setAttribute("aria-valuetext", slider.field.value);
  }

  function update() {
    if (!fit.program) {
      showNone();
      return;
    }
    const others = Object.fromEntries(fit.others.map(({ name }) => [name, sliders[name].value]));
    const N = chooses.checked ? sliders.N.value : null;
    const ask = { C: sliders.C.value, served: sliders.served.value, N, others };
    sliders.N.range.disabled = sliders.N.field.disabled = !chooses.checked;
    const numbers = answer(fit, ask);
    if (ask.N === null && !numbers.N.why) set("N", numbers.N.value);
    show(ask, numbers);
    draw(ask, numbers);
  }

  function showNone() {
    for (const row of box.querySelectorAll("tr[data-number]")) row.cells[1].textContent = row.cells[2].textContent = "–";
    box.querySelector("[data-drawing]").replaceChildren();
    box.querySelector("[data-notes]").textContent = fit.why_none;
  }

  const DIGITS = { N: 3, D: 3, ratio: 3, loss: 4 };

  function show(ask, numbers) {
    const reasons = new Set();
    for (const [name, one] of Object.entries(numbers)) {
      const write = name === "N" || name === "D" ? human : text;
      const row = box.querySelector(`tr[data-number=${name}]`);
      const impossible = (name !== "loss" && !(one.value > 0)) || !Number.isFinite(one.value);
      const digits = DIGITS[name] ?? 4;
      const isHidden = one.why && !one.known;
      row.cells[1].textContent = isHidden || impossible ? "–" : write(one.value, digits);
      const between = one.low === undefined ? "" : `${write(one.low, digits)} to ${write(one.high, digits)}`;
      row.cells[2].textContent = isHidden ? "not known" : one.why ? "no interval" : one.chosen ? "as chosen" : between;
      if (one.why) reasons.add(one.why);
    }
    const notes = [...reasons].map((why) => `The design of the runs does not support this number: ${why}.`);
    const k = fit.k;
    const serving = numbers.N.why ? 0 : ((k / 3) * ask.served * numbers.N.value) / ask.C;
    if (ask.N !== null && !(numbers.D.value > 0)) notes.push("This budget does not pay for that size and what it serves.");
    else if (serving > 0) notes.push(`${(100 * serving).toPrecision(3)}% of the budget is serving.`);
    const reach = ask.C / fit.largest;
    if (reach > 10) notes.push(`${text(reach, 3)} times beyond the largest budget of the runs.`);
    if (fit.searches && ask.N !== null && numbers.D.value > 0) {
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
    chart.append(element("text", { x: 2, y: top - 6 }, fit.target));
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

  begin(fits[0]);
  // For tests, and for whoever asks a number of the page by hand.
  window.lossgrid = {
    answer: (ask) => answer(fits.find((one) => one.name === ask.law) ?? fit, ask),
  };
})();
