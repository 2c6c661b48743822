// A path → the text side of the model there. Owns the choice of the reader.
import { stat } from 'node:fs/promises'
import { readGgufFile } from './gguf-file.ts'
import { readHuggingFaceFolder } from './hugging-face-folder.ts'
import type { ModelFile } from './model-file.ts'

/**
 * A folder is one of Hugging Face's, anything else a GGUF file.
 * @throws ModelFileError
 */
export async function readModelFile(path: string): Promise<ModelFile> {
  const isFolder = (await stat(path).catch(() => undefined))?.isDirectory() === true
  return isFolder ? await readHuggingFaceFolder(path) : await readGgufFile(path)
}
