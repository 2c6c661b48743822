// The counting upstream in a thread of its own, so that its work is not the load generator's. Owns nothing else.
import { parentPort } from 'node:worker_threads'
import { Upstream } from './upstream.ts'

const upstream = await Upstream.start({ chunkMs: 0 })
parentPort?.postMessage(upstream.baseUrl)
