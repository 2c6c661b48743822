// The part of node-llama-cpp that is used here, typed by hand: the package is installed in this folder on demand and is
// not there when the types of the project are checked. Owns loading it; what is done with it is peer.ts and record-goldens.ts.

export type Evaluated = {
  next: {
    /** Raw logits of the tokens asked for and of the largest ones, largest first. */
    logits?: Map<number, number>
    /** Sum of exp(logit - largest logit) over the vocabulary. */
    totalLogitWeight?: number
  }
}
export type EvaluateItem =
  | number
  | [
      token: number,
      options: {
        generateNext: {
          logits: { filter: { tokens: readonly number[]; includeTop: number } }
          totalLogitWeight: boolean
        }
      },
    ]
export type PeerSequence = {
  controlledEvaluate: (input: EvaluateItem[]) => Promise<(Evaluated | undefined)[]>
  clearHistory: () => Promise<void>
  readonly nextTokenIndex: number
}
/** One llama_context as the package's native part offers it. Marked internal there: the version is pinned. */
export type Binding = {
  initBatch: (tokens: number) => void
  addToBatch: (sequence: number, position: number, tokens: Uint32Array, logitIndexes: Uint32Array) => Uint32Array
  decodeBatch: () => Promise<void>
  /** Forgets positions from `start` to before `end`; -1 is the end. */
  removeTokenCellsFromSequence: (sequence: number, start: number, end: number) => boolean
  setThreads: (threads: number) => void
}
export type PeerContext = { getSequence: () => PeerSequence; _ctx: Binding }
export type ContextOptions = {
  sequences: number
  /** Tokens of each sequence. */
  contextSize: number
  batchSize: number
  threads: number
  flashAttention: boolean
}
export type PeerModel = {
  createContext: (options: ContextOptions) => Promise<PeerContext>
  tokenize: (text: string, specialTokens?: boolean) => number[]
  detokenize: (tokens: readonly number[], specialTokens?: boolean) => string
}
type Package = {
  getLlama: (options: { gpu: false; build: 'never'; logLevel: 'error'; maxThreads: number }) => Promise<{
    loadModel: (options: { modelPath: string; gpuLayers: 0 }) => Promise<PeerModel>
  }>
}

/** Loads the prebuilt llama.cpp and a model. @throws Error where the package is not installed or has no binary for this system */
export async function loadPeer(modelPath: string, threads: number): Promise<PeerModel> {
  // A variable, since the type checker would look for the package behind a literal.
  const name = 'node-llama-cpp'
  const { getLlama } = (await import(name)) as Package
  const llama = await getLlama({ gpu: false, build: 'never', logLevel: 'error', maxThreads: threads })
  return llama.loadModel({ modelPath, gpuLayers: 0 })
}

/** Natural logarithm of the probability of `token`, from a result that was asked for its logit and the largest. */
export function logProbability({ next }: Evaluated, token: number): number {
  const logit = next.logits?.get(token)
  if (next.logits === undefined || logit === undefined || next.totalLogitWeight === undefined) {
    throw new Error('the peer left out what was asked for')
  }
  return logit - Math.max(...next.logits.values()) - Math.log(next.totalLogitWeight)
}

/**
 * exp(mean of -log p(token | the tokens before it in its window)); the first token of a window is given.
 * @param windows ids
 */
export async function perplexity(context: PeerContext, windows: number[][]): Promise<number> {
  const sequence = context.getSequence()
  let sum = 0
  let count = 0
  for (const window of windows) {
    await sequence.clearHistory()
    const items = window.slice(0, -1).map((token, index): EvaluateItem => {
      const filter = { tokens: [window[index + 1] ?? 0], includeTop: 1 }
      return [token, { generateNext: { logits: { filter }, totalLogitWeight: true } }]
    })
    const results = await sequence.controlledEvaluate(items)
    for (let index = 0; index + 1 < window.length; index++) {
      const result = results[index]
      if (result === undefined) throw new Error('the peer left out a position')
      sum -= logProbability(result, window[index + 1] ?? 0)
      count++
    }
  }
  return Math.exp(sum / count)
}
