// How often the page does things that events ask for.

/**
 * Gives a function that asks for `draw` in the next animation frame, once however often it is asked. In a tab in the
 * background there are no frames: one is owed, and comes when the tab is seen again.
 * @param {() => void} draw
 * @returns {() => void}
 */
export function everyFrame(draw) {
  let isOwed = false;
  return () => {
    if (isOwed) return;
    isOwed = true;
    requestAnimationFrame(() => {
      isOwed = false;
      draw();
    });
  };
}

/**
 * Gives a function that asks for `act`, which then runs at most once in `milliseconds`, the last time after the last request.
 * @param {number} milliseconds
 * @param {() => void} act
 * @returns {() => void}
 */
export function atMostEvery(milliseconds, act) {
  let last = -Infinity;
  let isOwed = false;
  return () => {
    if (isOwed) return;
    isOwed = true;
    setTimeout(() => {
      isOwed = false;
      last = performance.now();
      act();
    }, Math.max(0, last + milliseconds - performance.now()));
  };
}

/** Asks for something again and again while it changes, one request at a time, and spends little of the other side's time. */
export class Refresher {
  #request;
  #canAsk;
  #isStale = false;
  #isAsking = false;
  #timer = 0;
  #next = 0;

  /**
   * @param {() => Promise<void>} request
   * @param {() => boolean} canAsk whether there is any use in it now
   */
  constructor(request, canAsk) {
    this.#request = request;
    this.#canAsk = canAsk;
  }

  /**
   * Says that there may be news.
   * @param {boolean} isUrgent whether somebody waits for it
   */
  refresh(isUrgent = false) {
    this.#isStale = true;
    if (isUrgent) this.#next = 0;
    this.#ask();
  }

  async #ask() {
    if (!this.#isStale || this.#isAsking || !this.#canAsk()) return;
    const wait = this.#next - performance.now();
    if (wait > 0) {
      this.#timer ||= setTimeout(() => {
        this.#timer = 0;
        this.#ask();
      }, wait);
      return;
    }
    this.#isStale = false;
    this.#isAsking = true;
    const begin = performance.now();
    await this.#request();
    const end = performance.now();
    this.#isAsking = false;
    this.#next = end + Math.max(SPACING, 8 * (end - begin));
    this.#ask();
  }
}

/** Milliseconds between an answer and the next request, at least. */
const SPACING = 300;
