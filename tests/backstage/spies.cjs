// One spy in each plugin: a module of the plugin's own, with the database client that Backstage gives to that plugin.
// It says what it is and looks whether it is still that: on its own tables, the others', settings, temporary tables, locks.
// Every plugin has a table `spy`, so who is led to another's reads another's name there.  What is wrong is a line
// SPY {"fault": ...} in the output; SPY {"done": ...} counts what was looked at, by plugin.
'use strict';
const { createBackendModule, coreServices } = require('@backstage/backend-plugin-api');

const { replica, expected, sleepers } = JSON.parse(process.env.BACKSTAGE_SPIES || '{}');
const TABLES = {
  auth: ['signing_keys'], catalog: ['final_entities'], events: ['event_bus_events'], notifications: ['notification', 'user_settings'],
  scaffolder: ['tasks'], search: ['documents'], 'user-settings': ['user_settings'],
};
const temporary = plugin => `pg_temp.spy_${plugin.replace('-', '_')}`;
const NAMES = [...new Set(Object.values(TABLES).flat())];
const PAUSE = 150;                  // milliseconds between two rounds, on average
const tell = what => process.stdout.write(`SPY ${JSON.stringify({ replica, ...what })}\n`);

class Spy {
  constructor(plugin, knex) {
    this.plugin = plugin;
    this.knex = knex;
    this.round = 0;
    this.done = {};
    this.over = false;
  }

  did(what) {
    this.done[what] = (this.done[what] || 0) + 1;
  }

  same(what, found, wanted) {
    this.did('looks');
    if (JSON.stringify(found) !== JSON.stringify(wanted)) {
      tell({ plugin: this.plugin, fault: what, found, wanted });
    }
  }

  async rows(text, bindings = [], connection = undefined) {
    const query = this.knex.raw(text, bindings);
    return (await (connection ? query.connection(connection) : query)).rows;
  }

  // Who, where and how it is, on any connection: `memory` is what it has said itself about work_mem, `own`: it has a temporary table.
  async look(connection, memory = '4MB', own = false) {
    const [found] = await this.rows(
      `select current_database() as database, current_schema() as schema, current_user as role,
              current_setting('application_name') as name, current_setting('work_mem') as memory,
              (select string_agg(distinct owner, ',') from spy) as spy`, [], connection);
    this.same('itself', found, {
      ...expected[this.plugin], name: `backstage_plugin_${this.plugin}`, memory, spy: this.plugin });
    const seen = await this.rows(
      'select n from unnest(?::text[]) n where to_regclass(n) is not null', [[...NAMES, ...Object.keys(TABLES).map(temporary)]],
      connection);
    this.same('tables', seen.map(row => row.n).sort(), [...TABLES[this.plugin], ...(own ? [temporary(this.plugin)] : [])].sort());
  }

  // A session that is not like the others, and must stay so.
  async session() {
    const connection = await this.knex.client.acquireConnection();
    const memory = `${1001 + 2 * (this.round % 500) + 1000 * replica}kB`;          // odd, so the server shows it as it is
    try {
      await this.rows(`set work_mem = '${memory}'`, [], connection);
      await this.rows(`create temporary table ${temporary(this.plugin)} as select ?::text as mark`, [memory], connection);
      await this.look(connection, memory, true);
      const [mark] = await this.rows(`select mark from ${temporary(this.plugin)}`, [], connection);
      this.same('its temporary table', mark.mark, memory);
      await this.rows(`drop table ${temporary(this.plugin)}`, [], connection);
      await this.look(connection, memory);
      await this.rows('reset work_mem', [], connection);
    } finally {
      await this.knex.client.releaseConnection(connection);
    }
    this.did('sessions');
  }

  // All replicas of a plugin count in one row; what SET LOCAL says ends with the transaction.
  async transaction() {
    await this.knex.transaction(async trx => {
      await trx.raw("set local work_mem = '9MB'");
      await trx.raw('update spy set rounds = rounds + 1 where owner = ?', [this.plugin]);
      await trx.transaction(async inner => {
        await inner.raw('insert into spy values (?, -1)', ['nobody']);
        throw new Error('back');
      }).catch(error => {
        if (error.message !== 'back') throw error;
      });
      const { rows } = await trx.raw('select current_setting(?) as memory, count(*)::int as owners from spy', ['work_mem']);
      this.same('its transaction', rows, [{ memory: '9MB', owners: 1 }]);
    });
    this.did('transactions');
  }

  // One query sleeps too long and is cancelled; the one beside it is not.
  async cancel() {
    const beside = this.rows('select pg_sleep(0.4), ?::int as n', [this.round]);
    const late = this.knex.raw(`select pg_sleep(600) as "${this.plugin} of ${replica}"`).timeout(200, { cancel: true }).then(
      () => 'answered', error => error.name);
    this.same('a timeout', await late, 'KnexTimeoutError');
    this.same('what ran beside it', (await beside).map(row => row.n), [this.round]);
    this.did('cancels');
  }

  async run() {
    while (!this.over) {
      this.round += 1;
      try {
        await this.look();
        await this.transaction();
        if (this.round % 3 === replica % 3) await this.session();
        if (this.round % 3 === (replica + 1) % 3 && sleepers.includes(this.plugin)) await this.cancel();
        this.did('rounds');
      } catch (error) {
        tell({ plugin: this.plugin, fault: 'error', found: `${error.code} ${error.message}` });
      }
      tell({ plugin: this.plugin, done: this.done });
      await new Promise(resolve => setTimeout(resolve, PAUSE * (0.5 + Math.random())));
    }
  }
}

// The first replica makes the tables before its plugin is ready; the others start later.
exports.spy = plugin => createBackendModule({
  pluginId: plugin,
  moduleId: 'spy',
  register(env) {
    env.registerInit({
      deps: { database: coreServices.database, lifecycle: coreServices.lifecycle },
      async init({ database, lifecycle }) {
        const knex = await database.getClient();
        if (replica === 1) {
          await knex.raw('create table spy (owner text, rounds int)');
          await knex.raw('insert into spy values (?, 0)', [plugin]);
        }
        const one = new Spy(plugin, knex);
        let running;
        lifecycle.addStartupHook(() => {
          running = one.run();
        });
        lifecycle.addShutdownHook(async () => {
          one.over = true;
          await running;
        });
      },
    });
  },
});
exports.plugins = Object.keys(TABLES);
