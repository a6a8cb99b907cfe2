import { addon } from './addon.ts';
import { callNative } from './call.ts';

/** Points within native work at which a fault can happen on purpose (native/system/faults.h). */
export const nativePoints = ['native-pin', 'native-upload', 'native-read', 'native-broadcast'] as const;
export type NativePoint = (typeof nativePoints)[number];

/** `crash`, `stop`, `delay` of so many milliseconds, `refuse`: happens once, when native work reaches the point next. */
export function armNativeFault(point: NativePoint, action: string, milliseconds: number): void {
  callNative(() => addon.armFault(point, action, milliseconds));
}
