/*
 * The revision log as watchers read it: the newest events in memory, everything else from the
 * keyspace. One for all gateways.
 *
 * It keeps the events since the last dispatch, however many, and older ones under a budget, so
 * that a watcher that is a little behind costs no disk. Events are kept only while somebody
 * watches (watch_log_retain); what is older, and what happened when nobody did, comes from the
 * keyspace: one key from the index, few keys from the index, sorted; many keys from the engine's
 * log, as far as that is written. The newest revisions may be in none of these for some
 * milliseconds (not kept, not written yet): then the reader waits.
 *
 * Memory: blocks of records in order of age, and a ring of 32-byte entries pointing into them.
 */
#ifndef CONCLAVE_STORED_WATCH_LOG_H
#define CONCLAVE_STORED_WATCH_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/util/bytes.h"
#include "stored/kv/kv.h"

struct watch_log;

struct watch_log *watch_log_new(size_t budget_bytes);
void watch_log_free(struct watch_log *log);

/* The keyspace whose events these are; it is observed from now on. NULL: it goes away. */
void watch_log_attach(struct watch_log *log, struct kv *kv);
struct kv *watch_log_kv(const struct watch_log *log);
int64_t watch_log_revision(const struct watch_log *log); /* of the keyspace */

/* Somebody watches: events are kept from the next one on, and until as many releases. */
void watch_log_retain(struct watch_log *log);
void watch_log_release(struct watch_log *log);
/* Everything at or below this revision may be dropped when the budget wants it. */
void watch_log_trim(struct watch_log *log, int64_t dispatched);

/* Events in memory have places; first <= place < end are there. A place stays good while its event
 * is. */
uint64_t watch_log_first(const struct watch_log *log);
uint64_t watch_log_end(const struct watch_log *log);
struct kv_event watch_log_at(const struct watch_log *log, uint64_t place);
/* The first place with revision >= main. */
uint64_t watch_log_find(const struct watch_log *log, int64_t main);
/* Every event with a revision at or above this one is in memory. */
int64_t watch_log_floor(const struct watch_log *log);
size_t watch_log_bytes(const struct watch_log *log);

#endif
