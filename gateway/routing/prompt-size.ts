// How many tokens a prompt has, before anybody has counted them ○. Owns the guess: characters by what models' tokenizers have
// made of them so far. The gateway has no tokenizer; agents tell the count with their first event.

/** English has about four characters per token. */
const TOKENS_PER_CHAR = 0.25
/** Outside of it a count is a fault or a prompt of one repeated letter: neither says anything of the next one. */
const TOKENS_PER_CHAR_MIN = 0.02
const TOKENS_PER_CHAR_MAX = 2
/** Of a shorter prompt the template is the larger part. */
const CHARS_MIN = 400
/** About the last twenty prompts count. */
const NEWEST_SHARE = 0.05
/** A prompt of ordinary length, for requests that wait somewhere and of which nothing else is known. */
const USUAL_TOKENS = 1000
/** Names come from the catalog; this only keeps a mistake there from growing. */
const MODELS_MAX = 1000

type Learned = { tokensPerChar: number; uncachedTokens: number }

export class PromptSizes {
  readonly #byModel = new Map<string, Learned>()

  tokensPerChar(model: string): number {
    return this.#byModel.get(model)?.tokensPerChar ?? TOKENS_PER_CHAR
  }

  /** What an ordinary request of the model has to have computed. */
  usualUncachedTokens(model: string): number {
    return this.#byModel.get(model)?.uncachedTokens ?? USUAL_TOKENS
  }

  /** An agent's count of a prompt of so many characters. */
  learn(model: string, chars: number, counted: { inputTokens: number; cachedInputTokens: number }): void {
    const tokens = counted.inputTokens + counted.cachedInputTokens
    if (tokens === 0) return
    const before = this.#byModel.get(model) ?? { tokensPerChar: TOKENS_PER_CHAR, uncachedTokens: USUAL_TOKENS }
    const ratio = Math.min(TOKENS_PER_CHAR_MAX, Math.max(TOKENS_PER_CHAR_MIN, tokens / Math.max(1, chars)))
    const tokensPerChar = chars < CHARS_MIN ? before.tokensPerChar : nearer(before.tokensPerChar, ratio)
    if (this.#byModel.size >= MODELS_MAX && !this.#byModel.has(model)) this.#byModel.clear()
    this.#byModel.set(model, { tokensPerChar, uncachedTokens: nearer(before.uncachedTokens, counted.inputTokens) })
  }
}

const nearer = (before: number, now: number): number => before + NEWEST_SHARE * (now - before)
