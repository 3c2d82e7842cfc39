/*
 * Cost of the keyspace alone, over the engine in memory: nanoseconds of CPU per operation. The engine's
 * own share of a put is printed beside it.
 *
 *     bench_kv [keys] [value bytes]
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "lib/proto/kv_check.h"
#include "lib/proto/messages.h"
#include "lib/util/buf.h"
#include "lib/util/macros.h"
#include "lib/util/prng.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"
#include "stored/engine/engine_mem.h"
#include "stored/kv/kv.h"
#include "stored/kv/kv_engine.h"

enum { TURN = 50, GETS = 1000000, KEY_BYTES = 40 };

static const struct kv_header header = {1, 2, 3};

static double now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void report(const char *what, double from, size_t count)
{
    printf("%-44s %10.0f ns\n", what, (now_ns() - from) / (double)count);
}

/* An engine that forgets: what remains is the keyspace's own cost. */
static uint64_t null_sequence;

static int null_get(struct kv_engine *e, struct bytes key, struct buf *ret)
{
    return -ENOENT;
}

static struct kv_engine_iter *null_iter_new(struct kv_engine *e, bool fill_cache)
{
    return NULL;
}

static void null_iter_free(struct kv_engine_iter *it)
{
}

static void null_iter_seek(struct kv_engine_iter *it, struct bytes key)
{
}

static bool null_iter_valid(const struct kv_engine_iter *it)
{
    return false;
}

static int null_iter_result(const struct kv_engine_iter *it)
{
    return 0;
}

static uint64_t null_written(const struct kv_engine *e)
{
    return null_sequence;
}

static void null_write(struct kv_engine *e, uint64_t sequence, struct buf *batch)
{
    buf_fini(batch);
    *batch = BUF_INIT;
    null_sequence = sequence;
}

static void make_key(char *key, size_t i)
{
    snprintf(key, KEY_BYTES + 1, "/registry/bench/namespace-7/key-%08zu", i);
}

static void put_all(struct kv *kv, uint64_t *index, size_t count, struct prng *prng, size_t keys,
                    size_t value_bytes)
{
    CLEANUP(buf_fini) struct buf payload = BUF_INIT;
    CLEANUP(buf_fini) struct buf body = BUF_INIT;
    CLEANUP(buf_fini) struct buf answer = BUF_INIT;
    CLEANUP(freep) uint8_t *value = xcalloc(1, value_bytes + 1);
    struct kv_answer to = {.header = &header, .message = &answer};
    char key[KEY_BYTES + 1];

    for (size_t i = 0; i < count; i++) {
        size_t k = prng != NULL ? prng_below(prng, keys) : i % keys;

        if (i % TURN == 0)
            kv_begin_turn(kv);
        make_key(key, k);
        buf_clear(&body);
        pb_put_bytes(&body, 1, bytes_str(key));
        pb_put_bytes(&body, 2, bytes_of(value, value_bytes));
        buf_clear(&payload);
        proto_payload_encode(&payload, &(struct proto_payload){.kind = PROTO_KIND_PUT,
                                                               .body = buf_bytes(&body)});
        buf_clear(&answer);
        if (kv_apply(kv, &(struct proto_entry){.index = ++*index, .term = 1,
                                               .data = buf_bytes(&payload)},
                     &to) != 0)
            abort();
        if (i % TURN == TURN - 1 || i == count - 1)
            kv_end_turn(kv);
    }
}

static void ranges(struct kv *kv, const char *what, const struct kv_range_request *m, size_t count)
{
    CLEANUP(buf_fini) struct buf answer = BUF_INIT;
    double from = now_ns();

    for (size_t i = 0; i < count; i++) {
        buf_clear(&answer);
        if (kv_range_now(kv, m, &header, SIZE_MAX, &answer) != 0)
            abort();
    }
    report(what, from, count);
}

static void gets(struct kv *kv, size_t keys)
{
    CLEANUP(buf_fini) struct buf answer = BUF_INIT;
    char key[KEY_BYTES + 1];
    struct prng prng;
    double from = now_ns();

    prng_init(&prng, 5);
    for (size_t i = 0; i < GETS; i++) {
        struct kv_range_request m = {.key = bytes_str(key)};

        make_key(key, prng_below(&prng, keys));
        m.key = bytes_str(key);
        buf_clear(&answer);
        if (kv_range_now(kv, &m, &header, SIZE_MAX, &answer) != 0)
            abort();
    }
    report("get, random key (key made by printf)", from, GETS);
}

static void checkpoint_and_open(struct kv *kv, struct engine_mem *engine)
{
    CLEANUP(buf_fini) struct buf file = BUF_INIT;
    struct kv_checkpoint *c = kv_checkpoint_new(kv);
    char *error, *warning;
    struct kv *again;
    double from = now_ns();

    while (kv_checkpoint_step(c, 256 << 10, &file) == 1) {
    }
    kv_checkpoint_free(c);
    printf("%-44s %10.0f ms, %zu MB\n", "checkpoint", (now_ns() - from) / 1e6, file.len >> 20);
    from = now_ns();
    if (kv_open(&(struct kv_args){.engine = engine_mem_kv(engine), .checkpoint = buf_bytes(&file)},
                &again, &error, &warning) != 0 ||
        warning != NULL)
        abort();
    printf("%-44s %10.0f ms\n", "open from it", (now_ns() - from) / 1e6);
    kv_free(again);
}

int main(int argc, char **argv)
{
    size_t keys = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000000;
    size_t value_bytes = argc > 2 ? strtoull(argv[2], NULL, 10) : 256;
    static const struct kv_engine_ops null_ops = {
        .write = null_write,
        .written = null_written,
        .get = null_get,
        .iter_new = null_iter_new,
        .iter_free = null_iter_free,
        .iter_seek = null_iter_seek,
        .iter_valid = null_iter_valid,
        .iter_result = null_iter_result,
    };
    struct engine_mem *engine = engine_mem_new(false);
    struct kv_engine null_engine = {.ops = &null_ops};
    struct kv_range_request all = {.key = BYTES_LIT("/registry/"), .range_end = BYTES_LIT("/registry0"),
                                   .count_only = true};
    struct kv_range_request thousand = {.key = BYTES_LIT("/registry/"), .limit = 1000,
                                        .range_end = BYTES_LIT("/registry0")};
    char *error, *warning;
    struct kv_stats stats;
    struct rusage usage;
    struct kv *kv;
    struct prng prng;
    uint64_t index = 0;
    double from;

    prng_init(&prng, 3);
    if (kv_open(&(struct kv_args){.engine = engine_mem_kv(engine),
                                  .cache_bytes = keys * (value_bytes + 100) * 2},
                &kv, &error, &warning) != 0)
        abort();
    from = now_ns();
    put_all(kv, &index, keys, NULL, keys, value_bytes);
    report("put, new keys in order, with engine_mem", from, keys);
    kv_get_stats(kv, &stats);
    printf("%-44s %10.0f bytes\n", "index per key, key included",
           (double)stats.index_bytes / (double)stats.key_count);
    gets(kv, keys);
    ranges(kv, "range of 1000", &thousand, 2000);
    ranges(kv, "count of everything", &all, 100000);
    thousand.keys_only = true;
    ranges(kv, "range of 1000, keys only", &thousand, 2000);
    checkpoint_and_open(kv, engine);
    from = now_ns();
    put_all(kv, &index, keys, &prng, keys, value_bytes);
    report("put, random known keys, with engine_mem", from, keys);
    kv_get_stats(kv, &stats);
    printf("%-44s %10.0f bytes\n", "index per key, one old version each",
           (double)stats.index_bytes / (double)stats.key_count);
    kv_free(kv);
    engine_mem_free(engine);

    /* the same without an engine */
    if (kv_open(&(struct kv_args){.engine = &null_engine}, &kv, &error, &warning) != 0)
        abort();
    index = 0;
    from = now_ns();
    put_all(kv, &index, keys, NULL, keys, value_bytes);
    report("put, new keys in order, no engine", from, keys);
    from = now_ns();
    put_all(kv, &index, keys, &prng, keys, value_bytes);
    report("put, random known keys, no engine", from, keys);
    kv_free(kv);
    null_sequence = 0;
    if (kv_open(&(struct kv_args){.engine = &null_engine}, &kv, &error, &warning) != 0)
        abort();
    index = 0;
    from = now_ns();
    put_all(kv, &index, 200000, NULL, 1, value_bytes);
    report("put, one key, no engine", from, 200000);
    kv_get_stats(kv, &stats);
    printf("%-44s %10.1f MB index, %.1f MB cache\n", "after 200,000 puts to one key",
           (double)stats.index_bytes / 1e6, (double)stats.cache_bytes / 1e6);
    kv_free(kv);
    getrusage(RUSAGE_SELF, &usage);
    printf("%-44s %10.1f MB\n", "highest memory of this program", (double)usage.ru_maxrss / 1024);
    return 0;
}
