/* The generator as functions of a page. */

const worker = new Worker(new URL('worker.js', import.meta.url), {type: 'module'});
const waiting = new Map();
let last = 0, heard = () => {};

worker.onmessage = ({data: {progress, number, result, error}}) => {
  if (progress) return heard(progress);
  const {resolve, reject} = waiting.get(number);
  waiting.delete(number);
  if (error === undefined) resolve(result); else reject(new Error(error));
};

worker.onerror = event => {
  event.preventDefault();
  const error = new Error(event.message || 'worker.js or runtime/ort.js cannot be loaded');
  for (const {reject} of waiting.values()) reject(error);
  waiting.clear();
};

function ask(message) {
  return new Promise((resolve, reject) => {
    waiting.set(++last, {resolve, reject});
    worker.postMessage({number: last, ...message});
  });
}

/* Loads it. facts: what index.html says of it; onProgress hears {name, have, total}, bytes of a file. */
export function start(facts, onProgress) {
  heard = onProgress;
  return ask({start: facts});
}

/* {seeds: numbers from 0 to 2^32 - 1, psi, label: number of a class} -> Float32Array
   [seeds, channels, resolution, resolution], about -1 to 1. */
export function images(request) {
  return ask({request});
}
