import { existsSync } from 'node:fs';

/** Folder of package.json, as a URL that ends in a slash: the same from src/, from dist/ and from what tests run. */
export const packageRoot: URL = findPackageRoot();

function findPackageRoot(): URL {
  let folder = new URL('.', import.meta.url);
  while (!existsSync(new URL('package.json', folder))) {
    const parent = new URL('..', folder);
    if (parent.href === folder.href) throw new Error(`no package.json above ${import.meta.url}`);
    folder = parent;
  }
  return folder;
}
