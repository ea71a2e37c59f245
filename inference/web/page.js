/* What a visitor chooses, and the images that answer. */

import {images, start} from './generator.js';

const facts = JSON.parse(document.getElementById('facts').textContent);
const element = id => document.getElementById(id);
const status = element('status'), grid = element('grid');
const controls = ['seed', 'seed-number', 'psi', 'label', 'count', 'other'].map(element).filter(found => found);
const LARGEST_SEED = 2 ** 32 - 1;
let wanted = 0;                     // number of the latest choice: older ones are given up

/* Pixels [channels, side, side] from -1 to 1 -> address of a PNG. */
async function picture(pixels) {
  const side = facts.resolution, area = side * side, canvas = new OffscreenCanvas(side, side);
  const data = new ImageData(side, side);
  for (let i = 0; i < area; i++) {
    for (let channel = 0; channel < 3; channel++) {
      const value = pixels[(facts.channels === 3 ? channel : 0) * area + i] * 127.5 + 128;
      data.data[4 * i + channel] = Math.max(0, Math.min(255, Math.floor(value)));
    }
    data.data[4 * i + 3] = 255;
  }
  canvas.getContext('2d').putImageData(data, 0, 0);
  return URL.createObjectURL(await canvas.convertToBlob({type: 'image/png'}));
}

function choice() {
  const first = Math.min(LARGEST_SEED, Math.max(0, Math.floor(Number(element('seed-number').value)) || 0));
  const count = Math.min(Number(element('count').value), LARGEST_SEED - first + 1);
  return {seeds: Array.from({length: count}, (_, i) => first + i), psi: Number(element('psi')?.value ?? 1),
          label: Number(element('label')?.value ?? 0)};
}

/* As many places as images; those that are there keep their image until the next one comes. */
function lay(count) {
  while (grid.children.length > count) {
    URL.revokeObjectURL(grid.lastElementChild.querySelector('a').href);
    grid.lastElementChild.remove();
  }
  while (grid.children.length < count) grid.append(element('place').content.cloneNode(true));
  grid.style.setProperty('--columns', Math.ceil(Math.sqrt(count)));
}

function show(place, address, seed, {psi, label}) {
  const name = facts.classes[label];
  const link = place.querySelector('a'), image = place.querySelector('img');
  if (link.href) URL.revokeObjectURL(link.href);
  link.href = image.src = address;
  link.download = `seed${String(seed).padStart(4, '0')}.png`;
  image.alt = `Generated image of seed ${seed}${facts.truncation ? `, psi ${psi}` : ''}${name ? `, ${name}` : ''}`;
  image.hidden = false;
  place.querySelector('figcaption').textContent = `seed ${seed}`;
}

async function draw() {
  const mine = ++wanted, {seeds, psi, label} = choice(), began = performance.now();
  lay(seeds.length);
  try {
    for (const [i, seed] of seeds.entries()) {
      status.textContent = `Image ${i + 1} of ${seeds.length} ...`;
      const address = await picture(await images({seeds: [seed], psi, label}));
      if (mine !== wanted) return;
      show(grid.children[i], address, seed, {psi, label});
    }
    const each = (performance.now() - began) / 1000 / seeds.length;
    status.textContent = `${seeds.length === 1 ? '1 image' : `${seeds.length} images`}, ${each.toFixed(2)} s each`;
  } catch (error) {
    fail(error);
  }
}

function fail(error) {
  status.textContent = `It does not work: ${error.message}`;
  status.classList.add('failed');
}

/* A slider and the field that says its value. */
function listen() {
  const seed = element('seed'), number = element('seed-number'), psi = element('psi');
  seed.addEventListener('input', () => { number.value = seed.value; draw(); });
  number.addEventListener('input', () => { seed.value = number.value; draw(); });
  psi?.addEventListener('input', () => { element('psi-value').textContent = Number(psi.value).toFixed(2); draw(); });
  element('label')?.addEventListener('change', draw);
  element('count').addEventListener('change', draw);
  element('other').addEventListener('click', () => {
    number.value = (choice().seeds.at(-1) + 1) % (LARGEST_SEED + 1);
    seed.value = number.value;
    draw();
  });
}

const megabytes = bytes => (bytes / 1e6).toFixed(1);
try {
  await start(facts, ({name, have, total}) => {
    status.textContent = `Loading ${name}: ${megabytes(have)}${total >= have ? ` of ${megabytes(total)}` : ''} MB`;
  });
  listen();
  for (const control of controls) control.disabled = false;
  await draw();
} catch (error) {
  fail(error);
}
