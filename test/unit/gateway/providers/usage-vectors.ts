// What providers say of their usage, and what it is in parts: the vectors of the design's usage table by their ids there,
// and a few beside them. Owns the data; usage-dialects.test.ts reads it.
import type { Usage } from '../../../../gateway/meter/usage.ts'
import type { UsageDialect } from '../../../../gateway/providers/usage-dialect.ts'

/** new / read / write; text / reasoning */
export type Parts = [number, number, number, number, number]

export type Vector = { id: string; dialect: UsageDialect; raws: unknown[]; parts: Parts; more?: Partial<Usage> }

export const VECTORS: Vector[] = [
  {
    id: 'O1: cached and reasoning tokens are inside the sums',
    dialect: 'openai',
    raws: [
      {
        prompt_tokens: 1486,
        completion_tokens: 651,
        total_tokens: 2137,
        prompt_tokens_details: { cached_tokens: 1408 },
        completion_tokens_details: { reasoning_tokens: 512 },
      },
    ],
    parts: [78, 1408, 0, 139, 512],
  },
  {
    id: 'O2: cache writes are inside too',
    dialect: 'openai',
    raws: [
      {
        prompt_tokens: 2000,
        completion_tokens: 10,
        prompt_tokens_details: { cached_tokens: 1024, cache_write_tokens: 512 },
      },
    ],
    parts: [464, 1024, 512, 10, 0],
    more: { inputCacheWrite5m: 512 },
  },
  {
    id: 'writes that are kept for hours are told apart',
    dialect: 'openai',
    raws: [
      {
        input_tokens: 2000,
        output_tokens: 10,
        input_tokens_details: {
          cached_tokens: 1024,
          cache_write_tokens: 512,
          cache_write_tokens_details: { ttl_30m_tokens: 112, ttl_12h_tokens: 400 },
        },
      },
    ],
    parts: [464, 1024, 512, 10, 0],
    more: { inputCacheWrite5m: 112, inputCacheWrite1h: 400 },
  },
  {
    id: 'writes that only their details count are counted',
    dialect: 'openai',
    raws: [
      {
        input_tokens: 2000,
        output_tokens: 10,
        input_tokens_details: { cache_write_tokens_details: { ttl_30m_tokens: 112, ttl_12h_tokens: 400 } },
      },
    ],
    parts: [1488, 0, 512, 10, 0],
    more: { inputCacheWrite5m: 112, inputCacheWrite1h: 400 },
  },
  {
    id: 'O3: the responses dialect has other names',
    dialect: 'openai',
    raws: [
      {
        input_tokens: 2941,
        output_tokens: 1249,
        input_tokens_details: { cached_tokens: 1920 },
        output_tokens_details: { reasoning_tokens: 1024 },
      },
    ],
    parts: [1021, 1920, 0, 225, 1024],
  },
  {
    id: 'O4: zeros are counts',
    dialect: 'openai',
    raws: [{ input_tokens: 0, output_tokens: 0, total_tokens: 0 }],
    parts: [0, 0, 0, 0, 0],
  },
  {
    id: 'O5: rejected prediction tokens are billed',
    dialect: 'openai',
    raws: [
      {
        prompt_tokens: 1,
        completion_tokens: 30,
        completion_tokens_details: { accepted_prediction_tokens: 5, rejected_prediction_tokens: 10 },
      },
    ],
    parts: [1, 0, 0, 30, 0],
  },
  {
    id: 'O6: null in every chunk but the last is no count',
    dialect: 'openai',
    raws: [null, null, { prompt_tokens: 3, completion_tokens: 2 }],
    parts: [3, 0, 0, 2, 0],
  },
  {
    id: 'sound and pictures are inside the sums',
    dialect: 'openai',
    raws: [
      {
        prompt_tokens: 100,
        completion_tokens: 50,
        prompt_tokens_details: { cached_tokens: 10, audio_tokens: 30, image_tokens: 20 },
        completion_tokens_details: { reasoning_tokens: 5, audio_tokens: 40 },
      },
    ],
    parts: [40, 10, 0, 5, 5],
    more: { inputAudio: 30, inputImage: 20, outputAudio: 40 },
  },
  {
    id: 'details of null are no details',
    dialect: 'openai',
    raws: [{ prompt_tokens: 3, completion_tokens: 1, prompt_tokens_details: null }],
    parts: [3, 0, 0, 1, 0],
  },
  {
    id: 'A1: a later event replaces, field by field',
    dialect: 'anthropic',
    raws: [
      { input_tokens: 43, output_tokens: 1 },
      { input_tokens: 61, output_tokens: 2 },
    ],
    parts: [61, 0, 0, 2, 0],
  },
  {
    id: 'A2: absent is not zero, and an opening sent twice counts once',
    dialect: 'anthropic',
    raws: [{ input_tokens: 17, output_tokens: 1 }, { input_tokens: 17, output_tokens: 1 }, { output_tokens: 227 }],
    parts: [17, 0, 0, 227, 0],
  },
  {
    id: 'A3: writes that the split leaves out are the dearer ones',
    dialect: 'anthropic',
    raws: [
      {
        input_tokens: 2,
        cache_creation_input_tokens: 3068,
        cache_creation: { ephemeral_5m_input_tokens: 3068 },
        output_tokens: 1,
      },
      {
        input_tokens: 6,
        cache_creation_input_tokens: 3337,
        cache_read_input_tokens: 6289,
        cache_creation: null,
        output_tokens: 198,
      },
    ],
    parts: [6, 6289, 3337, 198, 0],
    more: { inputCacheWrite5m: 3068, inputCacheWrite1h: 269 },
  },
  {
    id: 'A4: compaction stands beside the top level',
    dialect: 'anthropic',
    raws: [
      { input_tokens: 60_385, output_tokens: 1 },
      {
        input_tokens: 612,
        output_tokens: 2819,
        iterations: [
          { type: 'compaction', input_tokens: 60_385, output_tokens: 522 },
          { type: 'message', input_tokens: 612, output_tokens: 2819 },
        ],
      },
    ],
    parts: [60_997, 0, 0, 3341, 0],
  },
  {
    id: 'A5: an advisor is another model, beside the top level',
    dialect: 'anthropic',
    raws: [
      {
        input_tokens: 4727,
        output_tokens: 3391,
        iterations: [
          { type: 'message', input_tokens: 1051, output_tokens: 35 },
          { type: 'advisor_message', model: 'advisor', input_tokens: 2728, output_tokens: 3880 },
          { type: 'message', input_tokens: 3676, output_tokens: 3356 },
        ],
      },
    ],
    parts: [4727, 0, 0, 3391, 0],
  },
  {
    id: 'A6: the blocked attempt before a fallback is not in the top level',
    dialect: 'anthropic',
    raws: [
      {
        input_tokens: 412,
        output_tokens: 264,
        iterations: [
          { type: 'message', input_tokens: 408, output_tokens: 0 },
          { type: 'fallback_message', model: 'other', input_tokens: 412, output_tokens: 264 },
        ],
      },
    ],
    parts: [412, 0, 0, 264, 0],
  },
  {
    id: 'A7: thinking is inside the output, searches are calls',
    dialect: 'anthropic',
    raws: [
      {
        input_tokens: 5,
        output_tokens: 1699,
        output_tokens_details: { thinking_tokens: 139 },
        server_tool_use: { web_search_requests: 3 },
      },
    ],
    parts: [5, 0, 0, 1560, 139],
    more: { webSearchCalls: 3 },
  },
  {
    id: 'A8: events are cumulative, the last one holds',
    dialect: 'anthropic',
    raws: [
      { input_tokens: 10, output_tokens: 1 },
      { output_tokens: 20, server_tool_use: { web_search_requests: 1 } },
      { output_tokens: 45, server_tool_use: { web_search_requests: 2 } },
    ],
    parts: [10, 0, 0, 45, 0],
    more: { webSearchCalls: 2 },
  },
  {
    id: 'writes without any split are of the one tier there is',
    dialect: 'anthropic',
    raws: [{ input_tokens: 1, output_tokens: 1, cache_creation_input_tokens: 9 }],
    parts: [1, 0, 9, 1, 0],
    more: { inputCacheWrite5m: 9 },
  },
  {
    id: 'G1: thoughts stand beside the candidates',
    dialect: 'gemini',
    raws: [{ promptTokenCount: 9, candidatesTokenCount: 28, thoughtsTokenCount: 244, totalTokenCount: 281 }],
    parts: [9, 0, 0, 28, 244],
  },
  {
    id: 'G2: every chunk carries a running total',
    dialect: 'gemini',
    raws: [
      { promptTokenCount: 4, candidatesTokenCount: 13, thoughtsTokenCount: 302, totalTokenCount: 319 },
      { promptTokenCount: 4, candidatesTokenCount: 23, thoughtsTokenCount: 302, totalTokenCount: 329 },
      { promptTokenCount: 4, candidatesTokenCount: 23, thoughtsTokenCount: 302, totalTokenCount: 329 },
    ],
    parts: [4, 0, 0, 23, 302],
  },
  {
    id: 'G3: cached inside the prompt, tool use on top',
    dialect: 'gemini',
    raws: [
      {
        promptTokenCount: 1000,
        cachedContentTokenCount: 800,
        toolUsePromptTokenCount: 40,
        candidatesTokenCount: 20,
        thoughtsTokenCount: 10,
        totalTokenCount: 1070,
      },
    ],
    parts: [240, 800, 0, 20, 10],
  },
  ...(['openai', 'gemini'] as const).map(
    (dialect): Vector => ({
      id: `G4: a gap between the sums and the total is thinking (${dialect})`,
      dialect,
      raws: [{ prompt_tokens: 758, completion_tokens: 102, total_tokens: 1725 }],
      parts: [758, 0, 0, 102, 865],
    }),
  ),
  {
    id: 'sound and pictures by modality, the cached ones once',
    dialect: 'gemini',
    raws: [
      {
        promptTokenCount: 300,
        cachedContentTokenCount: 100,
        promptTokensDetails: [
          { modality: 'TEXT', tokenCount: 50 },
          { modality: 'AUDIO', tokenCount: 130 },
          { modality: 'VIDEO', tokenCount: 120 },
        ],
        cacheTokensDetails: [{ modality: 'AUDIO', tokenCount: 100 }],
        candidatesTokenCount: 60,
        candidatesTokensDetails: [{ modality: 'IMAGE', tokenCount: 60 }],
        totalTokenCount: 360,
      },
    ],
    parts: [50, 100, 0, 0, 0],
    more: { inputAudio: 30, inputImage: 120, outputImage: 60 },
  },
  ...(['openai', 'xai'] as const).flatMap((dialect): Vector[] => [
    {
      id: `X1: the total shows reasoning beside the completion (${dialect})`,
      dialect,
      raws: [
        {
          prompt_tokens: 12,
          completion_tokens: 2,
          total_tokens: 438,
          prompt_tokens_details: { cached_tokens: 3 },
          completion_tokens_details: { reasoning_tokens: 424 },
        },
      ],
      parts: [9, 3, 0, 2, 424],
    },
    {
      id: `X2: the total shows cached tokens beside the prompt (${dialect})`,
      dialect,
      raws: [
        {
          prompt_tokens: 4142,
          completion_tokens: 254,
          total_tokens: 8724,
          prompt_tokens_details: { cached_tokens: 4328 },
        },
      ],
      parts: [4142, 4328, 0, 254, 0],
    },
    {
      id: `X3: reasoning inside again, in the responses dialect (${dialect})`,
      dialect,
      raws: [
        {
          input_tokens: 1875,
          output_tokens: 695,
          total_tokens: 2570,
          input_tokens_details: { cached_tokens: 1578 },
          output_tokens_details: { reasoning_tokens: 397 },
        },
      ],
      parts: [297, 1578, 0, 298, 397],
    },
  ]),
  {
    id: 'without a total, chat completions count reasoning beside and responses inside',
    dialect: 'xai',
    raws: [{ prompt_tokens: 5, completion_tokens: 2, completion_tokens_details: { reasoning_tokens: 40 } }],
    parts: [5, 0, 0, 2, 40],
  },
  {
    id: 'the prompt is split into hits and misses',
    dialect: 'deepseek',
    raws: [
      {
        prompt_tokens: 100,
        completion_tokens: 20,
        total_tokens: 120,
        prompt_cache_hit_tokens: 64,
        prompt_cache_miss_tokens: 36,
        completion_tokens_details: { reasoning_tokens: 15 },
      },
    ],
    parts: [36, 64, 0, 5, 15],
  },
  {
    id: 'hits and misses alone are a prompt',
    dialect: 'deepseek',
    raws: [{ completion_tokens: 1, prompt_cache_hit_tokens: 2, prompt_cache_miss_tokens: 3 }],
    parts: [3, 2, 0, 1, 0],
  },
  {
    id: 'cache reads and writes are beside the input, and writes are told by how long they are kept',
    dialect: 'bedrock',
    raws: [
      {
        inputTokens: 240,
        outputTokens: 20,
        totalTokens: 1210,
        cacheReadInputTokens: 800,
        cacheWriteInputTokens: 150,
        cacheDetails: [
          { ttl: '1h', inputTokens: 100 },
          { ttl: '5m', inputTokens: 50 },
        ],
      },
    ],
    parts: [240, 800, 150, 20, 0],
    more: { inputCacheWrite5m: 50, inputCacheWrite1h: 100 },
  },
  {
    id: 'writes without details are the shorter ones',
    dialect: 'bedrock',
    raws: [{ inputTokens: 1, outputTokens: 2, cacheWriteInputTokens: 9 }],
    parts: [1, 0, 9, 2, 0],
    more: { inputCacheWrite5m: 9 },
  },
  {
    id: 'writes that the details leave out are the dearer ones',
    dialect: 'bedrock',
    raws: [
      { inputTokens: 1, outputTokens: 2, cacheWriteInputTokens: 9, cacheDetails: [{ ttl: '5m', inputTokens: 4 }] },
    ],
    parts: [1, 0, 9, 2, 0],
    more: { inputCacheWrite5m: 4, inputCacheWrite1h: 5 },
  },
  {
    id: 'zeros are counts',
    dialect: 'bedrock',
    raws: [{ inputTokens: 0, outputTokens: 0, totalTokens: 0 }],
    parts: [0, 0, 0, 0, 0],
  },
]
