// OpenAI's models on Azure. Owns both of its address forms and its header for keys; a target's model is the name of a
// deployment. What its content rules say about an answer is a finish reason, about a prompt an error: openai-failure.ts.
//
// Without a version, or with one that is a word ("v1", "preview"), the API is {resource}/openai/v1 and the deployment stands in
// the body. With a date it is {resource}/openai/deployments/{deployment}, whose older versions know fewer fields.
import type { ProviderConfig, Target } from '../policy/plan.ts'
import { openAiVendor } from './openai-vendor.ts'
import { OPENAI, type Preset } from './presets.ts'

/** From this version on every model takes `max_completion_tokens` (learn.microsoft.com, "API version lifecycle"). */
const NEW_LIMIT_SINCE = '2024-12-01'

const DATED = /^\d{4}-\d{2}-\d{2}(-preview)?$/

/** What dated versions do not know, as against the address without one. */
const DATED_PRESET: Preset = { ...OPENAI, hasVerbosity: false, hasPromptCacheKey: false }

const isDated = (version: string | undefined): version is string => version !== undefined && DATED.test(version)

export const azureOpenAi = openAiVendor({
  preset({ options: { apiVersion } }) {
    if (!isDated(apiVersion)) return OPENAI
    return { ...DATED_PRESET, limitField: apiVersion < NEW_LIMIT_SINCE ? 'max_tokens' : 'max_completion_tokens' }
  },
  url: azureUrl,
  authorisation: ({ key }) => ({ 'api-key': key.secret }),
  // Few dated versions have the responses route: who registers one of them for it says so.
  api: ({ options: { apiVersion } }) => (isDated(apiVersion) ? 'chat_completions' : 'auto'),
  // Encrypted for Azure, and for nobody else.
  responsesMark: () => 'azure_openai',
})

function azureUrl({ baseUrl, options: { apiVersion } }: ProviderConfig, target: Target, path: string): string {
  const url = new URL(baseUrl)
  // Registered as the resource's own address, or with the path that the portal shows.
  const resource = url.pathname.replace(/\/openai(\/v1)?\/*$/, '').replace(/\/+$/, '')
  url.pathname = `${resource}/openai${placeOf(apiVersion, target, path)}${path}`
  if (apiVersion !== undefined && apiVersion !== 'v1') url.searchParams.set('api-version', apiVersion)
  return url.toString()
}

/** With a date the deployment stands in the address, except for responses: there it has always stood in the body. */
function placeOf(apiVersion: string | undefined, target: Target, path: string): string {
  if (!isDated(apiVersion)) return '/v1'
  return path === '/responses' ? '' : `/deployments/${encodeURIComponent(target.model)}`
}
