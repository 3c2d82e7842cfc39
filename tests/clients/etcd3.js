/*
 * Node's etcd3 at work: keys, transactions, watches, leases, locks, elections, users and roles.
 *
 * etcd3.js ENDPOINT
 *
 * Prints one JSON line per observation, with nothing in it that differs between two clusters, so
 * that what two servers made of it can be compared. Needs a server without data.
 */
'use strict';

const { Etcd3, EtcdLockFailedError } = require('etcd3');

const client = new Etcd3({ hosts: process.argv[2] });

function say(what, value) {
  console.log(JSON.stringify([what, value === undefined ? null : value]));
}

/* What an error is, without addresses and stacks. */
async function failure(promise) {
  try {
    await promise;
    return 'no error';
  } catch (e) {
    return `${e.constructor.name}: ${e.message}`;
  }
}

/* Resolves with the next `count` events of an emitter, as [name, key, value]. */
function collect(watcher, count) {
  return new Promise((resolve, reject) => {
    const events = [];
    const add = (name) => (kv) => {
      events.push([name, kv.key.toString(), kv.value.toString(), kv.version]);
      if (events.length === count) resolve(events);
    };
    watcher.on('put', add('put'));
    watcher.on('delete', add('delete'));
    watcher.on('error', reject);
  });
}

async function keys() {
  say('put', (await client.put('foo').value('bar')).header.revision);
  say('get', await client.get('foo').string());
  say('get absent', await client.get('nobody').string());
  say('number', (await client.put('n').value(42), await client.get('n').number()));
  say('buffer', (await client.put('b').value(Buffer.from([0, 255, 10])),
    (await client.get('b').buffer()).toString('hex')));
  for (let i = 0; i < 20; i++) await client.put(`many/${i}`).value(`v${19 - i}`);
  say('prefix', await client.getAll().prefix('many/').strings());
  say('keys', await client.getAll().prefix('many/').limit(3).keys());
  say('count', await client.getAll().prefix('many/').count());
  say('sorted', await client.getAll().prefix('many/').sort('Value', 'Descend').limit(4).strings());
  say('range', await client.getAll().inRange({ start: 'many/1', end: 'many/3' }).keys());
  say('old', await client.get('foo').revision(2).string());
  say('delete', (await client.delete().key('foo')).deleted);
  say('delete prefix', (await client.delete().prefix('many/')).deleted);
  say('large', (await client.put('large').value('x'.repeat(500000)),
    (await client.get('large').string()).length));
  say('too large', await failure(client.put('large').value('x'.repeat(2000000))));
  say('empty key', await failure(client.put('').value('x')));
  say('future', await failure(client.get('n').revision(99999).string()));
  const ns = client.namespace('inner/');
  await ns.put('a').value('1');
  say('namespace', [await ns.get('a').string(), await client.get('inner/a').string()]);
}

async function transactions() {
  const txn = () => client.if('t', 'Version', '==', 0)
    .then(client.put('t').value('first')).else(client.get('t')).commit();
  say('txn', (await txn()).succeeded);
  const second = await txn();
  say('txn again', [second.succeeded, second.responses[0].response_range.kvs[0].value.toString()]);
  say('twice', await failure(client.if('t', 'Version', '>', 0)
    .then(client.put('t').value('1'), client.put('t').value('2')).commit()));
  await client.put('balance').value(10);
  await Promise.all([1, 2, 3, 4].map((n) => client.stm({ retries: 50 }).transact(async (tx) => {
    const now = await tx.get('balance').number();
    await tx.put('balance').value(now + n);
  })));
  say('stm', await client.get('balance').number());
}

async function watches() {
  const one = await client.watch().key('w').create();
  const all = await client.watch().prefix('w').create();
  const seenOne = collect(one, 3);
  const seenAll = collect(all, 4);
  const revision = (await client.put('w').value('1')).header.revision;
  await client.put('wx').value('2');
  await client.put('w').value('3');
  await client.delete().key('w');
  say('watch', await seenOne);
  say('watch prefix', await seenAll);
  const past = await client.watch().prefix('w').startRevision(revision).withPreviousKV().create();
  say('watch past', await collect(past, 4));
  const deletes = await client.watch().prefix('w').startRevision(revision).ignore('put').create();
  say('watch deletes', await collect(deletes, 1));
  await Promise.all([one, all, past, deletes].map((w) => w.cancel()));
  say('cancelled', true);
}

async function leases() {
  const lease = client.lease(600, { autoKeepAlive: false });
  await lease.put('leased').value('x');
  say('leased', await client.get('leased').string());
  say('granted', (await client.leaseClient.leaseTimeToLive(
    { ID: await lease.grant(), keys: true })).grantedTTL);
  say('keepalive', (await lease.keepaliveOnce()).TTL);
  await lease.revoke();
  say('revoked', await client.get('leased').string());
  say('no such lease', await failure(client.put('x').value('y').lease('123456')));
  const gone = await client.watch().key('short').create();
  const seen = collect(gone, 2);
  const short = client.lease(1, { autoKeepAlive: false });
  await short.put('short').value('x');
  say('expired', await seen);
  await gone.cancel();
}

async function locks() {
  const first = client.lock('door').ttl(60);
  await first.acquire();
  try {
    await client.lock('door').ttl(60).acquire();
    say('lock', 'taken twice');
  } catch (e) {
    say('lock', e instanceof EtcdLockFailedError);
  }
  await first.release();
  say('lock', await client.lock('door').do(() => 'inside'));
  let inside = 0, most = 0, done = 0;
  await Promise.all([...Array(5)].map(async () => {
    for (;;) {
      try {
        await client.lock('shared').do(async () => {
          most = Math.max(most, ++inside);
          await client.put('shared-work').value(String(done++));
          inside--;
        });
        return;
      } catch (e) {
        if (!(e instanceof EtcdLockFailedError)) throw e;
      }
    }
  }));
  say('lock shared', [most, done]);
}

async function elections() {
  const election = client.election('post', 60);
  say('no leader', await election.leader());
  const observer = await election.observe();
  const changed = new Promise((resolve) => observer.on('change', (v) => v && resolve(v)));
  const campaign = election.campaign('ann');
  await new Promise((resolve, reject) => campaign.on('elected', resolve).on('error', reject));
  say('leader', await election.leader());
  say('observed', await changed);
  await campaign.proclaim('ann again');
  say('proclaimed', await election.leader());
  await campaign.resign();
  say('resigned', await election.leader());
  await observer.cancel();
}

async function people() {
  const role = client.role('reader');
  await role.create();
  await role.grant({ permission: 'Read', range: client.range({ prefix: 'public/' }) });
  say('role', (await role.permissions()).map((p) => [p.permission, p.range.start.toString()]));
  const user = client.user('ann');
  await user.create('secret');
  await user.addRole('reader');
  say('user', (await user.roles()).map((r) => r.name));
  say('user again', await failure(client.user('ann').create('x')));
  say('users', (await client.getUsers()).map((u) => u.name));
  say('roles', (await client.getRoles()).map((r) => r.name));
  await user.removeRole('reader');
  await user.delete();
  await role.delete();
  say('gone', [(await client.getUsers()).length, (await client.getRoles()).length]);
}

async function main() {
  for (const part of [keys, transactions, watches, leases, locks, elections, people]) {
    await part();
  }
  say('members', (await client.cluster.memberList({})).members.length);
  client.close();
}

main().then(() => process.exit(0), (e) => {
  console.error(e);
  process.exit(1);
});
