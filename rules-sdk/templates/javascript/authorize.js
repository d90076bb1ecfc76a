// What this rule decides, and why.

/** Nobody but a service may send to everybody; other rules and roles decide the rest. */
function one({ principal, action }) {
  if (principal.kind === 'user' && action === 'notification.send') {
    return { tag: 'deny', val: { code: 'users_may_not_send' } };
  }
  return { tag: 'abstain' };
}

export const authorizer = {
  authorize: (batch) => batch.map(one),
};
