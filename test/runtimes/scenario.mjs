// What every runtime lives through with the published package: a gateway that dies in the middle of a stream, a provider called directly
// in its place, and the report of that once the gateway is back. Owns the steps and what is told of them; the servers are servers.ts.
// Plain JavaScript without anything of a runtime's own: each runs this very file.
import { answeredBy, Penstock, StreamInterruptedError } from '@penstock/sdk'

const messages = [{ role: 'user', content: 'Rivers' }]

/**
 * @param {string} gateway Its address, without the version.
 * @param {string} spare That of the direct provider, which also raises the gateway again.
 */
export async function scenario(gateway, spare) {
  const penstock = new Penstock({
    gateway: { baseUrl: gateway, apiKey: 'psk_test' },
    direct: [{ name: 'spare', baseUrl: `${spare}/v1`, apiKey: 'sk-own', models: { small: 'theirs', cut: 'cut' } }],
  })
  const steps = []

  const stream = await penstock.chat.completions.create(
    { model: 'small', messages, stream: true },
    { afterContent: 'restart', headers: { 'x-penstock-tags': 'feature=runtimes' } },
  )
  let shown = ''
  let before = ''
  for await (const chunk of stream) {
    if (chunk.type === 'penstock.restart') {
      before = shown
      shown = ''
    } else shown += chunk.choices[0]?.delta.content ?? ''
  }
  steps.push({ step: 'a stream that dies goes on elsewhere', first: stream.target, before, shown })

  const whole = await penstock.chat.completions.create({ model: 'small', messages })
  steps.push({
    step: 'past the gateway',
    by: answeredBy(whole)?.target,
    text: whole.choices[0]?.message.content,
  })

  let broken
  try {
    for await (const chunk of await penstock.chat.completions.create({ model: 'cut', messages, stream: true }))
      void chunk
  } catch (error) {
    broken = error
  }
  const isTyped = broken instanceof StreamInterruptedError
  steps.push({ step: 'a stream that breaks off is no clean end', isTyped, partial: isTyped && broken.partial.text })

  steps.push({ step: 'nobody to report to', waiting: penstock.pendingUsage.map(({ status }) => status) })
  await (await fetch(`${spare}/control/raise-gateway`, { method: 'POST' })).text()
  const back = await penstock.chat.completions.create({ model: 'small', messages })
  steps.push({ step: 'the gateway again', by: answeredBy(back)?.target, text: back.choices[0]?.message.content })

  steps.push({ step: 'reported', ...(await penstock.flushUsage()) })
  return steps
}
