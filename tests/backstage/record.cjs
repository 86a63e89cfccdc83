// Loaded before a Backstage backend (node --require): writes down each statement that a plugin gives to its driver, one JSON
// line each: {plugin, dialect, sql, bindings}.  Nothing else is changed.  The drivers themselves are watched, below knex, so what
// a plugin says on a connection of its own is heard, too.
//   BACKSTAGE_RECORDING       the file to append to
//   BACKSTAGE_BETTER_SQLITE3  where better-sqlite3 is installed, when it is not beside the backend
'use strict';
const fs = require('node:fs');
const path = require('node:path');
const Module = require('node:module');

const out = fs.openSync(process.env.BACKSTAGE_RECORDING, 'a');
const seen = Symbol('seen');

function plain(value) {
  if (value === undefined || value === null) return null;
  if (value instanceof Date) return { $date: value.toISOString() };
  if (Buffer.isBuffer(value)) return { $bytes: value.toString('hex') };
  if (typeof value === 'bigint') return Number(value);
  if (Array.isArray(value)) return value.map(plain);
  return typeof value === 'object' ? JSON.stringify(value) : value;      // pg sends an object as JSON
}

function record(plugin, dialect, sql, bindings) {
  if (plugin) fs.writeSync(out, `${JSON.stringify({ plugin, dialect, sql, bindings: (bindings ?? []).map(plain) })}\n`);
}

function watchPg(pg) {
  const query = pg.Client.prototype.query;
  pg.Client.prototype.query = function watched(what, values, ...rest) {
    const text = typeof what === 'string' ? what : what?.text ?? what?.cursor?.text;
    const given = Array.isArray(values) ? values : what?.values ?? what?.cursor?.values;
    const plugin = /^backstage_plugin_(.+)$/.exec(this.database ?? '')?.[1];
    if (text) record(plugin, 'pg', text, given);
    return query.call(this, what, values, ...rest);
  };
}

function watchSqlite(Database) {
  const pluginOf = database => path.basename(database.name, '.sqlite');
  const statement = Object.getPrototypeOf(new Database(':memory:').prepare('select 1'));
  for (const verb of ['all', 'get', 'iterate', 'run']) {
    const original = statement[verb];
    statement[verb] = function watched(...bindings) {
      record(pluginOf(this.database), 'sqlite', this.source, bindings.flat());
      return original.apply(this, bindings);
    };
  }
  const exec = Database.prototype.exec;
  Database.prototype.exec = function watched(sql) {
    record(pluginOf(this), 'sqlite', sql, []);
    return exec.call(this, sql);
  };
}

const load = Module._load;
Module._load = function watched(name, ...rest) {
  if (name !== 'pg' && name !== 'better-sqlite3') return load.call(this, name, ...rest);
  const elsewhere = name === 'better-sqlite3' && process.env.BACKSTAGE_BETTER_SQLITE3;
  const driver = load.call(this, elsewhere || name, ...rest);
  if (!driver[seen]) {
    driver[seen] = true;
    (name === 'pg' ? watchPg : watchSqlite)(driver);
  }
  return driver;
};
