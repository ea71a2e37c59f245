// The page: one slider over all grids of samples, and, where a server keeps the page up to date, a look for news.
(() => {
  const PLAY_EVERY = 400;         // milliseconds
  const data = JSON.parse(document.getElementById('data').textContent);
  const $ = id => document.getElementById(id);
  const remember = {
    get: () => { try { return JSON.parse(sessionStorage.getItem(location.pathname)); } catch { return null; } },
    set: value => {
      try { sessionStorage.setItem(location.pathname, JSON.stringify(value)); } catch { /* not for files */ }
    },
  };

  charts.show(data.panels || [], data.events || []);
  const sets = data.sets || [];
  sets.forEach((set, index) => {
    const image = $(`fakes-${index}`);
    set.frames.forEach(frame => { frame.src = frame.src || image.getAttribute('src'); });
  });
  const stops = [...new Set(sets.flatMap(set => set.frames.map(frame => frame.kimg)))].sort((a, b) => a - b);
  if ($('step') && stops.length > 0) slider();
  if (data.live) setInterval(look, 1000 * data.live.every);
  for (const time of document.querySelectorAll('time')) ago(time);

  function slider() {
    const step = $('step');
    step.max = stops.length - 1;
    const kept = remember.get();
    const wanted = kept && !kept.last ? stops.indexOf(kept.kimg) : -1;
    step.value = wanted >= 0 ? wanted : stops.length - 1;
    step.addEventListener('input', show);
    $('play').addEventListener('click', play);
    mark();
    show();
  }

  function show() {
    const kimg = stops[$('step').value];
    let label = null;
    sets.forEach((set, index) => {
      const frame = set.frames.findLast(candidate => candidate.kimg <= kimg) || set.frames[0];
      if (!frame) return;
      const image = $(`fakes-${index}`);
      if (image.getAttribute('src') !== frame.src) image.src = frame.src;
      image.alt = `Generated images of the same latents, ${frame.label}`;
      if (frame.kimg === kimg) label = frame.label;
      if ($(`at-${index}`)) $(`at-${index}`).textContent = frame.label;
    });
    $('at').textContent = label;
    $('step').setAttribute('aria-valuetext', label);
    charts.stand(kimg);
    remember.set({kimg, last: kimg === stops[stops.length - 1]});
  }

  // Where something happened, and which snapshot is the best, under the slider.
  function mark() {
    const place = kimg => {
      const next = stops.findIndex(stop => stop >= kimg);
      if (next < 0) return 1;
      const before = stops[next - 1];
      return (next === 0 ? 0 : next - 1 + (kimg - before) / (stops[next] - before)) / Math.max(stops.length - 1, 1);
    };
    const best = (data.panels || []).flatMap(panel => panel.series.filter(series => series.best !== undefined)
      .map(series => ({kimg: panel.x[series.best], kind: 'best'})));
    for (const event of [...(data.events || []).slice(-200), ...(data.kind === 'run' ? best : [])]) {
      const tick = document.createElement('i');
      tick.className = event.kind;
      tick.style.left = `${100 * place(event.kimg)}%`;
      $('marks').append(tick);
    }
  }

  let playing = null;
  function play() {
    const step = $('step');
    const end = () => {
      clearInterval(playing);
      playing = null;
      $('play').textContent = 'Play';
      $('play').setAttribute('aria-pressed', 'false');
    };
    if (playing !== null) return end();
    if (+step.value === stops.length - 1) step.value = 0;
    $('play').textContent = 'Stop';
    $('play').setAttribute('aria-pressed', 'true');
    show();
    playing = setInterval(() => {
      if (+step.value === stops.length - 1) return end();
      step.value = +step.value + 1;
      show();
    }, PLAY_EVERY);
  }

  async function look() {
    try {
      const answer = await fetch(data.live.address, {cache: 'no-store'});
      if (answer.ok && await answer.text() !== data.live.stamp && playing === null) location.reload();
    } catch { /* the server has ended: the page stays as it is */ }
  }

  function ago(time) {
    const then = Date.parse(time.textContent.replace(' UTC', 'Z').replace(' ', 'T'));
    const minutes = Math.round((Date.now() - then) / 60000);
    if (!(minutes >= 0)) return;
    const [size, unit] = minutes < 120 ? [1, 'minute'] : minutes < 2880 ? [60, 'hour'] : [1440, 'day'];
    const count = Math.round(minutes / size);
    time.after(` (${count} ${unit}${count === 1 ? '' : 's'} ago)`);
  }
})();
