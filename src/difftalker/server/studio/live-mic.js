// Runs beside the page: the microphone's samples, at 16 kHz and 16 bits.

class Microphone extends AudioWorkletProcessor {
  constructor() {
    super();
    this.held = [];
    this.place = 0;
  }

  process([[samples]]) {
    if (!samples) return true;
    const step = sampleRate / 16000;
    for (; this.place < samples.length; this.place += step) {
      const sample = Math.max(-1, Math.min(1, samples[Math.floor(this.place)]));
      this.held.push(Math.round(sample * 32767));
    }
    this.place -= samples.length;
    if (this.held.length >= 320) this.port.postMessage(Int16Array.from(this.held.splice(0)).buffer);
    return true;
  }
}
registerProcessor("microphone", Microphone);
