// Records what llama.cpp answers into the fixture that model_peer_test.cc compares with. Owns the format of that fixture;
// prompts and text are in goldens/. Run by hand, in this folder, when one of them changes:
//
//   npm ci --ignore-scripts && node record-goldens.ts MODEL.gguf
//
// Two files answer: the model as it is, and the same weights as F16. Int8 activations, which both implementations use
// with quantised weights, add noise to every logit; with F16 weights nothing is rounded that coarsely, so only there can
// two implementations be compared closely.
//
// Lines, words separated by single spaces; a prompt's lines follow each other:
//   window ID...            text to be predicted, all of one length
//   weights FORMAT          what follows is about these
//   perplexity P            of all windows; the first id of each is given
//   prompt NAME ID...       what is given
//   greedy ID...            the most likely id at each position, each taken into the context of the next
//   margin LOGITS...        how much larger its logit is than the next one there
//   top POSITION ID LOGPROB ID LOGPROB ...   the most likely ones at that position, 0 = right after the prompt
import { createHash } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { type Evaluated, loadPeer, logProbability, type PeerModel, type PeerSequence, perplexity } from './llama.ts'
import { requantize } from './requantize.ts'

type Prompt = { name: string; chat?: string; text?: string; textTokens?: [number, number] }

const FIXTURE = join(import.meta.dirname, '..', '..', 'native-engine', 'tests', 'fixtures', 'smollm2-135m.peer.txt')
const GREEDY_TOKENS = 32
const TOP = 5
/** Right after the prompt, and later, where the context is the peer's own output. */
const TOP_POSITIONS = [0, 8, 16, 31]
const WINDOWS = 8
const WINDOW_TOKENS = 336
const CONTEXT_TOKENS = 1024
/** The peer rounds a little differently with another number of threads. */
const THREADS = 1
const OPTIONS = { sequences: 1, contextSize: CONTEXT_TOKENS, batchSize: 512, threads: THREADS, flashAttention: true }

const [modelPath = ''] = process.argv.slice(2)
const prompts = JSON.parse(readFileSync(join(import.meta.dirname, 'goldens', 'prompts.json'), 'utf8')) as Prompt[]
const source = readFileSync(modelPath)
const sha256 = createHash('sha256').update(source).digest('hex')
const derivedDir = mkdtempSync(join(tmpdir(), 'penstock-goldens-'))
const derivedPath = join(derivedDir, 'F16.gguf')
writeFileSync(derivedPath, requantize(source, 'F16'))
const lines = [
  `# What llama.cpp (node-llama-cpp ${peerVersion()}, CPU, f16 KV) answers with ${basename(modelPath)}, ${sha256}.`,
  '# Written by bench/engine/record-goldens.ts, which describes the lines.',
]
try {
  for (const [format, path] of Object.entries({ Q4_1: modelPath, F16: derivedPath })) {
    const model = await loadPeer(path, THREADS)
    const text = model.tokenize(readFileSync(join(import.meta.dirname, 'goldens', 'text.txt'), 'utf8'))
    if (text.length < WINDOWS * WINDOW_TOKENS) throw new Error(`the text has only ${text.length} tokens`)
    const windows = Array.from({ length: WINDOWS }, (_, index) =>
      text.slice(index * WINDOW_TOKENS, (index + 1) * WINDOW_TOKENS),
    )
    if (format === 'Q4_1') lines.push(...windows.map((window) => `window ${window.join(' ')}`))
    lines.push(`weights ${format}`)
    lines.push(`perplexity ${(await perplexity(await model.createContext(OPTIONS), windows)).toFixed(5)}`)
    console.log(format, lines.at(-1))
    const sequence = (await model.createContext(OPTIONS)).getSequence()
    for (const prompt of prompts) {
      const ids = idsOf(prompt, model, text)
      await sequence.clearHistory()
      lines.push(`prompt ${prompt.name} ${ids.join(' ')}`, ...(await continued(sequence, ids)))
      const greedy = lines
        .findLast((line) => line.startsWith('greedy '))
        ?.split(' ')
        .slice(1)
        .map(Number)
      console.log(prompt.name, JSON.stringify(model.detokenize(greedy ?? [])))
    }
  }
} finally {
  rmSync(derivedDir, { recursive: true })
}
writeFileSync(FIXTURE, `${lines.join('\n')}\n`)
process.exit(0)

function idsOf({ chat, text: plain, textTokens }: Prompt, model: PeerModel, text: number[]): number[] {
  if (textTokens !== undefined) return text.slice(...textTokens)
  if (chat === undefined) return model.tokenize(plain ?? '')
  const turns = `<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n`
  return model.tokenize(`${turns}<|im_start|>user\n${chat}<|im_end|>\n<|im_start|>assistant\n`, true)
}

async function continued(sequence: PeerSequence, ids: number[]): Promise<string[]> {
  const greedy: number[] = []
  const margin: string[] = []
  const top: string[] = []
  let given = ids
  for (let position = 0; position < GREEDY_TOKENS; position++) {
    const result = await next(sequence, given)
    const ranked = [...(result.next.logits ?? [])].sort((a, b) => b[1] - a[1])
    const [first, runnerUp] = ranked
    if (first === undefined || runnerUp === undefined) throw new Error('the peer gave no logits')
    greedy.push(first[0])
    margin.push((first[1] - runnerUp[1]).toFixed(4))
    if (TOP_POSITIONS.includes(position)) {
      const pairs = ranked.slice(0, TOP).map(([id]) => `${id} ${logProbability(result, id).toFixed(5)}`)
      top.push(`top ${position} ${pairs.join(' ')}`)
    }
    given = [first[0]]
  }
  return [`greedy ${greedy.join(' ')}`, `margin ${margin.join(' ')}`, ...top]
}

/** Evaluates the ids; the result is about what follows the last. */
async function next(sequence: PeerSequence, ids: number[]): Promise<Evaluated> {
  const logits = { filter: { tokens: [], includeTop: TOP } }
  const last = ids.at(-1)
  if (last === undefined) throw new Error('an empty prompt')
  const results = await sequence.controlledEvaluate([
    ...ids.slice(0, -1),
    [last, { generateNext: { logits, totalLogitWeight: true } }],
  ])
  const result = results.at(-1)
  if (result === undefined) throw new Error('the peer left out the last position')
  return result
}

function peerVersion(): string {
  const path = join(import.meta.dirname, 'node_modules', 'node-llama-cpp', 'package.json')
  return (JSON.parse(readFileSync(path, 'utf8')) as { version: string }).version
}
