'use strict';
// Curves: one uPlot for each panel of the data, all with the same cursor and the same marks on the axis of images seen.
const charts = (() => {
  const HEIGHT = 220, COLOURS = 8;
  const made = [];
  let events = [], at = null;
  const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colour = index => css(`--c${index % COLOURS}`);

  function number(value) {
    if (value === null || value === undefined) return '–';
    const size = Math.abs(value);
    return size !== 0 && (size < 0.001 || size >= 1e6) ? value.toExponential(2) : String(+value.toPrecision(4));
  }

  // Lines from top to bottom at the events and where the slider stands; intervals of values; a ring around the best.
  function marks(panel) {
    const line = (u, kimg, style, dash) => {
      const x = Math.round(u.valToPos(kimg, 'x', true));
      if (x < u.bbox.left || x > u.bbox.left + u.bbox.width) return;
      u.ctx.strokeStyle = style;
      u.ctx.setLineDash(dash);
      u.ctx.beginPath();
      u.ctx.moveTo(x, u.bbox.top);
      u.ctx.lineTo(x, u.bbox.top + u.bbox.height);
      u.ctx.stroke();
    };
    const below = u => {
      u.ctx.save();
      u.ctx.lineWidth = devicePixelRatio;
      const colours = {warning: '--watch', resume: '--line', end: '--line'};
      for (const event of events) line(u, event.kimg, css(colours[event.kind] || '--act'), [3, 3]);
      if (at !== null) line(u, at, css('--soft'), []);
      u.ctx.restore();
    };
    const above = u => {
      u.ctx.save();
      u.ctx.lineWidth = 1.5 * devicePixelRatio;
      panel.series.forEach((series, index) => {
        if (!u.series[index + 1].show) return;
        u.ctx.strokeStyle = colour(series.colour ?? index);
        (series.low || []).forEach((low, i) => {
          if (low === null || series.high[i] === null || (panel.log && low <= 0)) return;
          const x = u.valToPos(panel.x[i], 'x', true);
          u.ctx.beginPath();
          u.ctx.moveTo(x, u.valToPos(low, 'y', true));
          u.ctx.lineTo(x, u.valToPos(series.high[i], 'y', true));
          u.ctx.stroke();
        });
        if (series.best === undefined) return;
        u.ctx.strokeStyle = css('--good');
        u.ctx.lineWidth = 2.5 * devicePixelRatio;
        u.ctx.beginPath();
        const [x, y] = [u.valToPos(panel.x[series.best], 'x', true), u.valToPos(series.y[series.best], 'y', true)];
        u.ctx.arc(x, y, 7 * devicePixelRatio, 0, 2 * Math.PI);
        u.ctx.stroke();
      });
      u.ctx.restore();
    };
    return {hooks: {drawClear: below, draw: above, setCursor: latest, ready: latest}};
  }

  // Where the pointer is nowhere, the legend has the last values.
  function latest(u) {
    if (u.cursor.idx === null || u.cursor.idx === undefined) u.setLegend({idx: u.data[0].length - 1}, false);
  }

  function range(panel) {
    const all = panel.series.flatMap(series => [...(series.low || []), ...(series.high || [])]);
    const ends = all.filter(value => value !== null);
    return (u, low, high) =>
      low === null || (low === 0 && high === 0 && ends.length === 0) ? [0, 1]
        : uPlot.rangeNum(Math.min(low, ...ends), Math.max(high, ...ends), 0.08, true);
  }

  const isPower = value => value > 0 && Math.abs(Math.log10(value) - Math.round(Math.log10(value))) < 1e-9;

  function options(panel, width) {
    const powers = (u, values) => values.map(value => !panel.log || isPower(value) ? value : null);
    const axis = {
      stroke: () => css('--soft'), grid: {stroke: () => css('--line'), width: 1, filter: powers}, ticks: {show: false},
      font: '12px system-ui, sans-serif',
    };
    const labels = (u, values) => values.map(value => value === null ? '' : number(value));
    const scale = panel.log ? {distr: 3} : {range: range(panel)};
    return {
      width, height: HEIGHT, plugins: [marks(panel)], scales: {x: {time: false}, y: scale},
      cursor: {sync: {key: 'images', scales: ['x', null]}, points: {size: 7}}, legend: {live: true},
      axes: [{...axis, size: 28}, {...axis, size: 58, values: labels}],
      series: [
        {label: 'kimg', value: (u, value) => number(value)},
        ...panel.series.map((series, index) => ({
          label: series.label, stroke: () => colour(series.colour ?? index), width: 1.75, spanGaps: true,
          value: (u, value) => number(value),
        })),
      ],
    };
  }

  const positive = values => values.map(value => value > 0 ? value : null);
  const rows = panel => [panel.x, ...panel.series.map(series => panel.log ? positive(series.y) : series.y)];

  function draw(entry) {
    if (entry.plot) entry.plot.destroy();
    const width = Math.max(entry.place.clientWidth, 200);
    entry.plot = new uPlot(options(entry.panel, width), rows(entry.panel), entry.place);
  }

  function add(panel, index) {
    const place = document.getElementById(`plot-${index}`);
    if (!place || panel.x.length === 0) return;
    const entry = {panel, place};
    made.push(entry);
    draw(entry);
    new ResizeObserver(() => {
      const width = Math.max(place.clientWidth, 200);
      if (width !== entry.plot.width) entry.plot.setSize({width, height: HEIGHT});
    }).observe(place);
    const button = document.querySelector(`button[data-plot="${index}"]`);
    button.disabled = !panel.series.some(series => series.y.some(value => value > 0));
    button.addEventListener('click', () => {
      panel.log = !panel.log;
      button.setAttribute('aria-pressed', String(panel.log));
      draw(entry);
    });
  }

  const redraw = () => made.forEach(entry => entry.plot.redraw(false));

  return {
    made,
    show(panels, happened) {
      events = happened;
      panels.forEach(add);
      matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => made.forEach(draw));
    },
    stand(kimg) {
      at = kimg;
      redraw();
    },
  };
})();
