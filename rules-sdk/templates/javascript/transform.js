// What this rule shows, and why. Settings: `sign`, what stands before each title.
import { get } from 'bugler:rules/config@0.1.0';

/** Puts a sign before the title. */
function one({ payloadJson }, sign) {
  const { title } = JSON.parse(payloadJson);
  if (typeof title !== 'string') return { decision: { tag: 'keep' } };
  const edit = { pointer: '/title', valueJson: JSON.stringify(`${sign} ${title}`) };
  return { decision: { tag: 'patch', val: [edit] }, why: { code: 'signed' } };
}

export const transformer = {
  transform({ items }) {
    const sign = get('sign') ?? '[test]';
    return items.map((item) => one(item, sign));
  },
};
