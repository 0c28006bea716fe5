// The losses of a run, in a bounded number of points however long it is.

/** Points for the steps; when they are full, neighbours merge and each point stands for twice as many steps. */
const POINTS = 2048;
/** Evaluations that are kept; when there are more, every other one goes. */
const EVALUATIONS = 512;

/** Losses of training steps and evaluations. */
export class History {
  #sums = new Float64Array(POINTS);
  #counts = new Uint32Array(POINTS);
  /** Steps that a point stands for. */
  #width = 1;
  #points = 0;
  /** The first point that has steps: a run may go on from a checkpoint. */
  #begin = 0;
  /** @type {{step: number, train: number, test: number}[]} */
  evaluations = [];
  /** @type {{step: number, loss: number} | null} the first step */
  first = null;
  /** @type {{step: number, loss: number} | null} the latest step, its loss smoothed over about fifty steps */
  latest = null;
  #weight = 0;

  /** Forgets everything. */
  clear() {
    this.#sums.fill(0);
    this.#counts.fill(0);
    this.#width = 1;
    this.#points = this.#begin = 0;
    this.evaluations = [];
    this.first = this.latest = null;
    this.#weight = 0;
  }

  /**
   * Takes a step's loss.
   * @param {number} step counted from 1
   * @param {number} loss
   */
  add(step, loss) {
    if (!Number.isFinite(loss) || step < 1) return;
    this.first ??= { step, loss };
    // A mean at first, then an exponential one.
    this.#weight = Math.min(this.#weight + 1, 50);
    const before = this.latest ? this.latest.loss : loss;
    this.latest = { step, loss: before + (loss - before) / this.#weight };
    while (step - 1 >= POINTS * this.#width) this.#merge();
    const point = Math.floor((step - 1) / this.#width);
    this.#sums[point] += loss;
    this.#counts[point] += 1;
    if (this.#points === 0) this.#begin = point;
    this.#points = Math.max(this.#points, point + 1);
  }

  /** @param {{step: number, train: number, test: number}} evaluation */
  addEvaluation({ step, train, test }) {
    this.evaluations.push({ step, train, test });
    if (this.evaluations.length > EVALUATIONS) {
      const last = this.evaluations.length - 1;
      this.evaluations = this.evaluations.filter((_, index) => (last - index) % 2 === 0);
    }
  }

  #merge() {
    for (const values of [this.#sums, this.#counts]) {
      for (let i = 0; i < POINTS / 2; i++) values[i] = values[2 * i] + values[2 * i + 1];
      values.fill(0, POINTS / 2);
    }
    this.#width *= 2;
    this.#points = Math.ceil(this.#points / 2);
    this.#begin = Math.floor(this.#begin / 2);
  }

  /**
   * Calls `each` for all points, oldest first, with the middle of the steps that it stands for, their mean loss, and that
   * loss smoothed over its neighbours.
   * @param {(step: number, loss: number, smoothed: number) => void} each
   */
  forEach(each) {
    const reach = Math.max(3, Math.round(this.#points / 60));
    for (let point = this.#begin; point < this.#points; point++) {
      if (this.#counts[point] === 0) continue;
      // As far back as ahead, but for the end, where there is nothing ahead.
      const back = Math.min(reach, point - this.#begin);
      let [sum, count] = [0, 0];
      for (let near = point - back; near <= Math.min(point + back, this.#points - 1); near++) {
        sum += this.#sums[near];
        count += this.#counts[near];
      }
      // The last point may not be full yet.
      const middle = point * this.#width + (Math.min(this.#width, this.#counts[point]) + 1) / 2;
      each(middle, this.#sums[point] / this.#counts[point], sum / count);
    }
  }

  /** @returns {number} the points that are held, for tests of what is bounded */
  get points() {
    return this.#points;
  }
}
