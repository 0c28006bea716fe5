// What to do where the browser has no WebGPU, or no GPU for it.
// Versions: https://github.com/gpuweb/gpuweb/wiki/Implementation-Status

import { element } from "./elements.js";

const LINUX_FLAGS = "--enable-unsafe-webgpu --ozone-platform=x11 --use-angle=vulkan --enable-features=Vulkan,VulkanFromANGLE";

/** @typedef {{title: string, message: string, remedies: string[]}} Problem */

/**
 * What keeps this page from using WebGPU, as far as the page itself can see.
 * @returns {Problem | null}
 */
export function problem() {
  if (!window.isSecureContext) {
    return {
      title: "This address is not secure, so browsers keep WebGPU from it",
      message: `WebGPU needs https, or http://localhost; this page came from ${location.origin}.`,
      remedies: ["Open the page by https.", "If you serve it yourself: open it as http://localhost, on the machine that serves it, or through an ssh tunnel (ssh -L 8000:localhost:8000 HOST)."],
    };
  }
  if (!("gpu" in navigator)) {
    return { title: "This browser has no WebGPU", message: "The page trains on your GPU, and WebGPU is how a page gets at it.", remedies: browsers() };
  }
  return null;
}

/**
 * What to do if there is WebGPU, but no adapter.
 * @param {string} message the engine's words
 * @returns {Problem}
 */
export function noAdapter(message) {
  return {
    title: "WebGPU is here, but it found no GPU that it may use",
    message,
    remedies: [
      "Turn on hardware acceleration (“Use graphics acceleration when available”) in the browser's settings, and start the browser again.",
      "Chrome and Edge: chrome://gpu says what is blocked and why. Recent graphics drivers often help; so does #enable-unsafe-webgpu on chrome://flags.",
      ...browsers(),
    ],
  };
}

/**
 * Shows a problem in place of the page's parts, none of which works.
 * @param {Problem} found
 * @param {string} command what does the same without a browser
 */
export function show({ title, message, remedies }, command) {
  element("main").hidden = true;
  element("unsupported-title").textContent = title;
  element("unsupported-message").textContent = message;
  element("unsupported-remedies").replaceChildren(...remedies.map((remedy) => {
    const item = document.createElement("li");
    item.textContent = remedy;
    return item;
  }));
  element("unsupported-command").textContent = command;
  element("unsupported").hidden = false;
}

/** Which browsers have it, this one first. */
function browsers() {
  const agent = navigator.userAgent;
  const isLinux = /Linux/.test(agent) && !/Android/.test(agent);
  const all = [
    { isThis: /Firefox\//.test(agent), text: "Firefox: from version 141 on Windows, 147 on a Mac with Apple silicon. On Linux: Firefox Nightly, or dom.webgpu.enabled on about:config." },
    { isThis: /Version\/.*Safari\//.test(agent), text: "Safari: from version 26 on macOS 26, iOS 26 and iPadOS 26. In older ones, WebGPU may be among the feature flags in the developer settings." },
    { isThis: /Chrom(e|ium)\//.test(agent) && !isLinux, text: "Chrome and Edge: from version 113 on Windows, macOS and ChromeOS, 121 on Android 12 or later." },
    { isThis: /Chrom(e|ium)\//.test(agent) && isLinux, text: `Chrome on Linux: from version 144 with Intel's GPUs since 2020, 147 with NVIDIA's. With others, start it with ${LINUX_FLAGS}` },
  ];
  return all.sort((a, b) => Number(b.isThis) - Number(a.isThis)).map(({ isThis, text }) => (isThis ? `This browser: ${text}` : text));
}
