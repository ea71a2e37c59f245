/* Runs the generator, beside the page, so that the page can be used meanwhile. */

import * as ort from './runtime/ort.js';
import {latent} from './latents.js';

let facts, session;

/* The bytes of a file of this folder; `tell` hears how many have come, of how many. */
async function bytes(name, tell) {
  const response = await fetch(new URL(name, import.meta.url));
  if (!response.ok) throw new Error(`${name}: the server answers ${response.status}`);
  const total = Number(response.headers.get('Content-Length')), parts = [];
  let have = 0;
  for (const reader = response.body.getReader(); ;) {
    const {done, value} = await reader.read();
    if (done) break;
    parts.push(value);
    have += value.length;
    tell(name, have, total);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

async function start(given) {
  facts = given;
  const tell = (name, have, total) => postMessage({progress: {name, have, total}});
  const runtime = await bytes('runtime/ort.wasm', tell);
  if (new TextDecoder().decode(runtime.subarray(0, 4)) !== '\0asm') {
    throw new Error('runtime/ort.wasm: the server gives something else under this name');
  }
  ort.env.wasm.wasmBinary = runtime.buffer;       // servers need not know the type of the file
  ort.env.wasm.numThreads = 1;                    // more need headers that few static servers send
  ort.env.logLevel = 'error';
  session = await ort.InferenceSession.create(await bytes('generator.onnx', tell), {executionProviders: ['wasm']});
}

/* -> float32 [seeds, channels, resolution, resolution], about -1 to 1. label: number of the class. */
async function images({seeds, psi, label}) {
  const inputs = {}, n = seeds.length;
  const z = new Float32Array(n * facts.z_dim);
  seeds.forEach((seed, i) => z.set(latent(seed, facts.z_dim), i * facts.z_dim));
  inputs.z = new ort.Tensor('float32', z, [n, facts.z_dim]);
  if (facts.classes.length) {
    const c = new Float32Array(n * facts.classes.length);
    for (let i = 0; i < n; i++) c[i * facts.classes.length + label] = 1;
    inputs.c = new ort.Tensor('float32', c, [n, facts.classes.length]);
  }
  if (facts.truncation) inputs.truncation_psi = new ort.Tensor('float32', new Float32Array([psi]), []);
  return (await session.run(inputs)).img.data;
}

onmessage = async ({data: {number, start: given, request}}) => {
  try {
    const result = given ? await start(given) : await images(request);
    postMessage({number, result});
  } catch (error) {
    postMessage({number, error: error.message ?? String(error)});
  }
};
