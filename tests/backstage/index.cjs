// A Backstage backend with every plugin that keeps something in a database; nothing of ours is in it.
// Whoever dials anything but this machine is refused and named in the output: the test looks for that line.
'use strict';
const net = require('node:net');

const dial = net.Socket.prototype.connect;
net.Socket.prototype.connect = function connect(...args) {
  const given = Array.isArray(args[0]) ? args[0][0] : args[0];
  const host = given && typeof given === 'object' ? given.host : typeof args[1] === 'string' ? args[1] : undefined;
  const path = given && typeof given === 'object' ? given.path : undefined;
  if (!path && host && !['127.0.0.1', 'localhost', '::1'].includes(host)) {
    console.error(`OUTSIDE ${host}`);
    this.destroy(new Error(`refused to dial ${host}`));
    return this;
  }
  return dial.apply(this, args);
};

const { createBackend } = require('@backstage/backend-defaults');

const backend = createBackend();
for (const name of [
  'catalog-backend', 'catalog-backend-module-scaffolder-entity-model', 'auth-backend', 'auth-backend-module-guest-provider',
  'scaffolder-backend', 'search-backend', 'search-backend-module-catalog', 'search-backend-module-pg', 'events-backend',
  'notifications-backend', 'user-settings-backend',
]) {
  backend.add(require(`@backstage/plugin-${name}`).default);
}
if (process.env.BACKSTAGE_SPIES) {
  const { plugins, spy } = require('./spies.cjs');
  plugins.forEach(plugin => backend.add(spy(plugin)));
}
backend.start().catch(error => {
  console.error(error);
  process.exit(1);
});
