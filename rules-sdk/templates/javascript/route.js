// What this rule decides, and why. Settings: `event`, which event it is about.
import { get } from 'bugler:rules/config@0.1.0';

const routed = (tag, code) => ({ decision: { tag }, why: { code } });

/** Sends nothing of low priority about the event of the setting. */
function one({ eventType, priority }, event) {
  if (eventType !== event) return routed('abstain', 'other_event');
  return priority === 'low' ? routed('drop', 'low_priority') : routed('abstain', 'not_low');
}

export const router = {
  route({ notifications, items }) {
    const event = get('event') ?? 'marketing';
    return items.map((item) => one(notifications[item.notification], event));
  },
};
