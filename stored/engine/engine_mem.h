/*
 * An engine in memory for unit tests and the simulator, with the crashes of a real one:
 *
 * - engine_mem_kill: the process dies. What was written stays (the kernel has it), what was only
 *   handed over is lost.
 * - engine_mem_crash: the host dies. What was synced stays; of each later batch the caller says
 *   whether it is there, so a lost tail and a hole are both possible.
 *
 * After either, sequences begin again as with a new process; nothing else may be in use.
 */
#ifndef CONCLAVE_STORED_ENGINE_MEM_H
#define CONCLAVE_STORED_ENGINE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct engine_mem;
struct kv_engine;

/* manual: batches wait until engine_mem_write; otherwise they are written at once. */
struct engine_mem *engine_mem_new(bool manual);
void engine_mem_free(struct engine_mem *e);
struct kv_engine *engine_mem_kv(struct engine_mem *e);

/* Writes up to count queued batches; the sequence written so far. */
uint64_t engine_mem_write(struct engine_mem *e, size_t count);
/* Everything written becomes durable; its sequence. */
uint64_t engine_mem_sync(struct engine_mem *e);
size_t engine_mem_queued(const struct engine_mem *e);
/* Batches written and not synced: what a crash decides about. */
size_t engine_mem_unsynced(const struct engine_mem *e);

void engine_mem_kill(struct engine_mem *e);
/* survives: engine_mem_unsynced() answers, oldest first. */
void engine_mem_crash(struct engine_mem *e, const bool *survives);

/* Records whose key has this length. */
size_t engine_mem_record_count(const struct engine_mem *e, size_t key_len);
/* Bytes of all keys and values. */
uint64_t engine_mem_bytes(const struct engine_mem *e);

#endif
