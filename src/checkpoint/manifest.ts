/** Manifests: what they are, how ranks' parts become one, what names them, how they cross a process. All pure. */
export { decodeManifest, encodeManifest } from './manifest-codec.ts';
export {
  arrivalDigest,
  contentDigest,
  type LayoutDigests,
  layoutDigests,
  tensorsDigest,
} from './manifest-digest.ts';
export { ManifestMerger, mergeManifests } from './manifest-merge.ts';
export {
  dtypeName,
  type Manifest,
  type SegmentInfo,
  shapeOf,
  type TensorInfo,
  tensorAt,
} from './manifest-table.ts';
