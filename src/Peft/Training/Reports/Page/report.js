'use strict';
(() => {
const runs = JSON.parse(document.getElementById('data').textContent).runs;
const byId = id => document.getElementById(id);
const svgName = 'http://www.w3.org/2000/svg';
const make = (name, attributes = {}, text) => {
  const node = name in { svg: 1, g: 1, path: 1, line: 1, rect: 1, text: 1, circle: 1 } ? document.createElementNS(svgName, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
};
const color = index => `var(--s${index % 6})`;
const figure = value => value === null || value === undefined || !isFinite(value) ? '–'
  : value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6) ? Number(value.toPrecision(4)).toExponential() : Number(value.toPrecision(5)).toLocaleString('en-US', { maximumSignificantDigits: 5 });
const time = seconds => `${Math.floor(seconds / 3600)}:${String(Math.floor(seconds / 60) % 60).padStart(2, '0')}:${String(Math.floor(seconds) % 60).padStart(2, '0')}`;

// What is drawn: each curve of each run as points [step, value].
const points = (run, values) => values.map((value, i) => [run.steps.step[i], value]).filter(point => point[1] !== null);
const throughput = run => points(run, run.steps.seconds.map((seconds, i) => {
  const before = i === 0 ? 0 : run.steps.seconds[i - 1];
  return seconds > before && (i > 0 || run.steps.step[0] === 1) ? run.steps.tokens[i] / (seconds - before) : null;
}));
const charts = [
  { title: 'Loss', of: run => points(run, run.steps.loss), dots: run => run.evaluations.map(entry => [entry.step, entry.loss]), dotName: 'evaluation' },
  { title: 'Learning rate', of: run => points(run, run.steps.rate), plain: true },
  { title: 'Gradient norm', of: run => points(run, run.steps.norm) },
  { title: 'Tokens a second', of: throughput },
  { title: 'Memory, MB', of: run => points(run, run.steps.memory), plain: true },
];
const metricNames = [...new Set(runs.flatMap(run => Object.keys(run.metrics).concat(run.evaluations.flatMap(entry => Object.keys(entry.metrics)))))];
for (const name of metricNames) {
  charts.push({
    title: name, of: run => run.metrics[name] ? points(run, run.metrics[name]) : [], dotName: 'evaluation',
    dots: run => run.evaluations.filter(entry => name in entry.metrics).map(entry => [entry.step, entry.metrics[name]]),
  });
}

const whole = [Math.min(...runs.flatMap(run => run.steps.step.length ? [run.steps.step[0]] : [])), Math.max(...runs.flatMap(run => run.steps.step.slice(-1)))];
let range = [...whole];
let smoothing = 0.6;

// Mean with weights that fall off over the past, corrected at its beginning (as Adam corrects its moments); the longer the training the slower they do.
const smoothed = list => {
  if (smoothing === 0) return list;
  const keep = Math.exp(-1 / (smoothing * smoothing * Math.max(4, list.length * 0.06)));
  let mean = 0, weight = 0;
  return list.map(([x, y]) => { mean = keep * mean + (1 - keep) * y; weight = keep * weight + (1 - keep); return [x, mean / weight]; });
};
// Of more points than pixels the lowest and highest of each pixel, in their order.
const thinned = (list, pixels) => {
  if (list.length <= 2 * pixels) return list;
  const out = [], size = list.length / pixels;
  for (let p = 0; p < pixels; p++) {
    const part = list.slice(Math.floor(p * size), Math.floor((p + 1) * size));
    const low = part.reduce((a, b) => b[1] < a[1] ? b : a), high = part.reduce((a, b) => b[1] > a[1] ? b : a);
    out.push(...(low[0] <= high[0] ? [low, high] : [high, low]));
  }
  return out;
};
const ticks = (low, high, count) => {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(n => n * power).find(n => n >= raw * 0.999);
  const list = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) list.push(Math.abs(value) < step * 1e-9 ? 0 : value);
  return list;
};

const width = 560, height = 250, left = 58, right = 24, top = 10, bottom = 24;
const views = [];
function draw(view) {
  const { chart, svg } = view;
  svg.replaceChildren();
  const inside = list => list.filter(([x]) => x >= range[0] && x <= range[1]);
  view.lines = runs.map(run => { const list = chart.of(run); return { raw: inside(list), smooth: chart.plain ? inside(list) : inside(smoothed(list)), dots: inside(chart.dots ? chart.dots(run) : []) }; });
  const shown = view.lines.flatMap(line => (smoothing > 0 && !chart.plain ? line.smooth : line.raw).concat(line.dots)).map(point => point[1]).filter(isFinite).sort((a, b) => a - b);
  if (shown.length === 0) { view.node.hidden = true; return; }
  view.node.hidden = false;
  // A spike of one step doesn't flatten the rest of the curve.
  const spread = shown.length > 50 ? shown[Math.floor(shown.length * 0.995)] : shown[shown.length - 1];
  let low = shown[0], high = spread > low ? spread : shown[shown.length - 1];
  const pad = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  if (low >= 0 && low - pad < 0) low = 0; else low -= pad;
  high += pad;
  const span = range[1] - range[0] || 1;
  view.x = step => left + (step - range[0]) / span * (width - left - right);
  view.y = value => top + (high - Math.min(high, Math.max(low, value))) / (high - low) * (height - top - bottom);
  for (const value of ticks(low, high, 5)) {
    svg.append(make('line', { class: 'grid', x1: left, x2: width - right, y1: view.y(value), y2: view.y(value) }));
    svg.append(make('text', { x: left - 6, y: view.y(value) + 4, 'text-anchor': 'end' }, figure(value)));
  }
  for (const value of ticks(range[0], range[1] === range[0] ? range[0] + 1 : range[1], 6).filter(Number.isInteger)) {
    svg.append(make('text', { x: view.x(value), y: height - 6, 'text-anchor': 'middle' }, value.toLocaleString('en-US')));
  }
  const path = list => thinned(list, width - left - right).map(([x, y], i) => `${i ? 'L' : 'M'}${view.x(x).toFixed(1)} ${view.y(y).toFixed(1)}`).join('');
  view.lines.forEach((line, i) => {
    if (!chart.plain && smoothing > 0) svg.append(make('path', { class: 'raw', stroke: color(i), d: path(line.raw) }));
    if (line.smooth.length === 1) svg.append(make('circle', { cx: view.x(line.smooth[0][0]), cy: view.y(line.smooth[0][1]), r: 3, fill: color(i) }));
    svg.append(make('path', { class: 'smooth', stroke: color(i), d: path(smoothing > 0 ? line.smooth : line.raw) }));
    for (const [x, y] of thinned(line.dots, 120)) svg.append(make('circle', { cx: view.x(x), cy: view.y(y), r: 3.2, fill: 'var(--panel)', stroke: color(i), 'stroke-width': 1.8 }));
  });
}
function nearest(list, step) {
  let a = 0, b = list.length - 1;
  if (b < 0) return null;
  while (b - a > 1) { const middle = (a + b) >> 1; if (list[middle][0] < step) a = middle; else b = middle; }
  return Math.abs(list[a][0] - step) <= Math.abs(list[b][0] - step) ? list[a] : list[b];
}
function point(view, step) {
  view.svg.querySelector('.cursor')?.remove();
  if (step === null) { view.tip.hidden = true; return; }
  view.at = step;
  view.svg.append(make('line', { class: 'cursor', x1: view.x(step), x2: view.x(step), y1: top, y2: height - bottom }));
  view.tip.replaceChildren(make('div', {}, `Step ${step.toLocaleString('en-US')}`));
  view.lines.forEach((line, i) => {
    const here = nearest(line.raw, step), dot = nearest(line.dots, step);
    if (!here && !dot) return;
    const row = make('div');
    row.append(make('span', { class: 'swatch', style: `background:${color(i)}` }), `${runs.length > 1 ? runs[i].name + ' ' : ''}${here ? figure(here[1]) : ''}${dot ? `${here ? ', ' : ''}${view.chart.dotName} ${figure(dot[1])} (step ${dot[0]})` : ''}`);
    view.tip.append(row);
  });
  view.tip.hidden = false;
  const share = view.x(step) / width;
  view.tip.style.top = '2.4rem';
  view.tip.style.left = share < 0.5 ? `calc(${(share * 100).toFixed(1)}% + 14px)` : '';
  view.tip.style.right = share < 0.5 ? '' : `calc(${((1 - share) * 100).toFixed(1)}% + 14px)`;
}
const redraw = () => views.forEach(draw);
function enlarge(from, to) {
  const [low, high] = from < to ? [from, to] : [to, from];
  range = high - low >= 2 ? [Math.max(whole[0], Math.round(low)), Math.min(whole[1], Math.round(high))] : range;
  redraw();
}
function listen(view) {
  const { svg } = view;
  const stepAt = event => {
    const box = svg.getBoundingClientRect();
    const share = ((event.clientX - box.left) / box.width * width - left) / (width - left - right);
    return Math.round(range[0] + Math.min(1, Math.max(0, share)) * (range[1] - range[0]));
  };
  let start = null, selection = null;
  svg.addEventListener('pointerdown', event => { start = stepAt(event); svg.setPointerCapture(event.pointerId); });
  svg.addEventListener('pointermove', event => {
    const step = stepAt(event);
    point(view, step);
    selection?.remove();
    if (start !== null && start !== step) {
      const [a, b] = [view.x(start), view.x(step)].sort((x, y) => x - y);
      svg.append(selection = make('rect', { class: 'selection', x: a, width: b - a, y: top, height: height - top - bottom }));
    }
  });
  svg.addEventListener('pointerup', event => { const from = start; start = null; selection?.remove(); if (from !== null && Math.abs(stepAt(event) - from) >= 2) enlarge(from, stepAt(event)); });
  svg.addEventListener('pointercancel', () => { start = null; selection?.remove(); });
  svg.addEventListener('pointerleave', () => point(view, null));
  svg.addEventListener('dblclick', () => { range = [...whole]; redraw(); });
  svg.addEventListener('keydown', event => {
    const move = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 }[event.key];
    if (move) { event.preventDefault(); point(view, Math.min(range[1], Math.max(range[0], (view.at ?? range[0]) + move))); }
    if (event.key === 'Escape') { range = [...whole]; redraw(); }
  });
}
for (const chart of charts) {
  const node = make('figure');
  const caption = make('figcaption', {}, chart.title);
  if (runs.length > 1 || chart.dots && runs.some(run => chart.dots(run).length)) {
    runs.forEach((run, i) => { const entry = make('span'); entry.append(make('span', { class: 'swatch', style: `background:${color(i)}` }), runs.length > 1 ? run.name : 'training'); caption.append(entry); });
    if (chart.dots && runs.some(run => chart.dots(run).length)) caption.append(make('span', {}, '○ evaluation'));
  }
  const svg = make('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', tabindex: 0, 'aria-label': `${chart.title} by step` });
  const tip = make('div', { class: 'tip', hidden: '' });
  node.append(caption, svg, tip);
  byId('charts').append(node);
  const view = { chart, node, svg, tip, lines: [] };
  views.push(view);
  listen(view);
}
redraw();
byId('smoothing').addEventListener('input', event => { smoothing = Math.min(0.99, event.target.value / 100); redraw(); });
byId('reset').addEventListener('click', () => { range = [...whole]; redraw(); });
byId('theme').addEventListener('click', () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  root.dataset.theme = dark ? 'light' : 'dark';
});

// Tables with a column for each run, rows that say nothing left out.
function table(id, rows) {
  if (runs.length > 1) { const head = make('tr'); head.append(make('th')); runs.forEach((run, i) => { const cell = make('th'); cell.append(make('span', { class: 'swatch', style: `background:${color(i)}` }), run.name); head.append(cell); }); byId(id).append(head); }
  for (const [name, values] of rows) {
    if (values.every(value => value === null || value === undefined || value === '')) continue;
    const row = make('tr');
    row.append(make('th', {}, name));
    values.forEach(value => row.append(make('td', {}, value ?? '–')));
    byId(id).append(row);
  }
}
const last = list => list.length ? list[list.length - 1] : null;
const best = (list, value) => list.length ? list.reduce((a, b) => value(b) < value(a) ? b : a) : null;
table('runs', [
  ['Steps', runs.map(run => run.steps.step.length.toLocaleString('en-US'))],
  ['Loss', runs.map(run => `${figure(last(run.steps.loss))}`)],
  ['Lowest loss', runs.map(run => { const i = run.steps.loss.indexOf(best(run.steps.loss.filter(value => value !== null), value => value)); return i < 0 ? null : `${figure(run.steps.loss[i])} (step ${run.steps.step[i]})`; })],
  ['Evaluation', runs.map(run => run.evaluations.length ? `${figure(last(run.evaluations).loss)}, lowest ${figure(best(run.evaluations, entry => entry.loss).loss)} (step ${best(run.evaluations, entry => entry.loss).step})` : null)],
  ['Time', runs.map(run => time(last(run.steps.seconds) ?? 0))],
  ['Tokens', runs.map(run => run.tokens.toLocaleString('en-US'))],
  ['Tokens a second', runs.map(run => figure(run.tokensPerSecond))],
  ['Highest memory', runs.map(run => { const high = Math.max(...run.steps.memory.filter(value => value !== null)); return isFinite(high) ? `${figure(high)} MB` : null; })],
  ['Trained parameters', runs.map(run => run.parameters.toLocaleString('en-US'))],
  ['Objective', runs.map(run => run.objective)],
  ['Model', runs.map(run => run.model)],
  ['Data', runs.map(run => run.data)],
]);
const keys = field => [...new Set(runs.flatMap(run => Object.keys(run[field])))];
table('options', keys('options').map(key => [key, runs.map(run => run.options[key])]));
table('environment', keys('environment').map(key => [key, runs.map(run => run.environment[key])]));
byId('subtitle').textContent = runs.map(run => run.started).filter(Boolean).join(', ');
runs.forEach((run, i) => {
  const title = runs.length > 1 ? `${run.name}: ` : '';
  if (run.command) {
    const button = make('button', { type: 'button' }, 'Copy');
    button.addEventListener('click', () => navigator.clipboard?.writeText(run.command).then(() => { button.textContent = 'Copied'; }));
    byId('commands').append(...(title ? [make('strong', {}, run.name)] : []), make('pre', {}, run.command), button);
  }
  const answers = [...run.evaluations.flatMap(entry => entry.samples.map(sample => ({ step: entry.step, ...sample }))), ...run.pictures];
  for (const prompt of new Set(answers.map(answer => answer.prompt))) {
    byId('samples').hidden = false;
    const box = make('div', { class: 'sample' });
    box.append(make('strong', {}, runs.length > 1 ? run.name : ''), make('div', { class: 'text' }, prompt));
    const list = make('table'), pictures = make('div', { class: 'pictures' });
    for (const answer of answers.filter(answer => answer.prompt === prompt)) {
      if (answer.png) {
        const picture = make('div');
        picture.append(make('img', { src: `data:image/png;base64,${answer.png}`, alt: `${prompt}, step ${answer.step}` }), make('div', {}, `step ${answer.step}`));
        pictures.append(picture);
        continue;
      }
      const row = make('tr'), cell = make('td');
      cell.append(make('div', { class: 'text' }, answer.text));
      row.append(make('th', {}, `step ${answer.step}`), cell);
      list.append(row);
    }
    box.append(list, pictures);
    byId('sample-list').append(box);
  }
  for (const example of run.hardest) {
    byId('hardest').hidden = false;
    const box = make('div', { class: 'example' });
    box.append(make('strong', {}, `${title}loss ${figure(example.loss)}, ${example.place}`));
    const text = make('div', { class: 'text' });
    for (const part of example.parts) text.append(part.learnt ? make('mark', {}, part.text) : part.text);
    box.append(text);
    byId('hardest-list').append(box);
  }
  for (const message of run.messages) { byId('messages').hidden = false; byId('message-list').append(make('li', {}, title + message)); }
});
})();
