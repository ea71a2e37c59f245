/* The latent of a seed: that of numpy.random.RandomState(seed).randn, which generate.py draws. Bits by the Mersenne
   twister MT19937 (Matsumoto and Nishimura, 1998), normal numbers by the polar method (Marsaglia and Bray, 1964). */

const SIZE = 624, AHEAD = 397;

function* words(seed) {
  const state = new Uint32Array(SIZE);
  state[0] = seed;
  for (let i = 1; i < SIZE; i++) {
    const last = state[i - 1] ^ (state[i - 1] >>> 30);
    state[i] = Math.imul(1812433253, last) + i;
  }
  for (let i = 0; ; i = (i + 1) % SIZE) {
    const joined = (state[i] & 0x80000000) | (state[(i + 1) % SIZE] & 0x7fffffff);
    state[i] = state[(i + AHEAD) % SIZE] ^ (joined >>> 1) ^ (joined & 1 ? 0x9908b0df : 0);
    let word = state[i];
    word ^= word >>> 11;
    word ^= (word << 7) & 0x9d2c5680;
    word ^= (word << 15) & 0xefc60000;
    yield (word ^ (word >>> 18)) >>> 0;
  }
}

/* 53 bits of two words, in [0, 1). */
function uniform(source) {
  const high = source.next().value >>> 5, low = source.next().value >>> 6;
  return (high * 67108864 + low) / 9007199254740992;
}

/* Normal numbers, as many as asked for, as float32. seed: 0 to 2^32 - 1. */
export function latent(seed, size) {
  const source = words(seed), z = new Float32Array(size + 1);       // they come in pairs
  for (let i = 0; i < size; i += 2) {
    let x, y, square;
    do {
      x = 2 * uniform(source) - 1;
      y = 2 * uniform(source) - 1;
      square = x * x + y * y;
    } while (square >= 1 || square === 0);
    const factor = Math.sqrt(-2 * Math.log(square) / square);
    z[i] = factor * y;
    z[i + 1] = factor * x;
  }
  return z.slice(0, size);
}
