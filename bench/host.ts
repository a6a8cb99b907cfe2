import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { writeQwen3Model } from '../scenarios/qwen3-model.ts';
import { startReferenceEngine } from '../scenarios/reference-engine/index.ts';
import { Cluster } from '../src/index.ts';
import { Mapping, SharedDirectory, ThreadPool } from '../src/native-bridge/memory.ts';
