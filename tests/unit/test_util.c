#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include "lib/util/buf.h"
#include "lib/util/crc32c.h"
#include "lib/util/hmap.h"
#include "lib/util/list.h"
#include "lib/util/macros.h"
#include "lib/util/prng.h"
#include "lib/util/sha256.h"
#include "lib/util/url.h"
#include "lib/wire/pb.h"
#include "lib/wire/wire.h"

Test(crc32c, known_vectors)
{
    uint8_t zeros[32] = {0}, ones[32], rising[32];

    memset(ones, 0xff, sizeof(ones));
    for (uint8_t i = 0; i < 32; i++)
        rising[i] = i;
    /* RFC 3720 appendix B.4 */
    cr_assert_eq(crc32c(0, zeros, 32), 0x8a9136aaU);
    cr_assert_eq(crc32c(0, ones, 32), 0x62a8ab43U);
    cr_assert_eq(crc32c(0, rising, 32), 0x46dd794eU);
    cr_assert_eq(crc32c(crc32c(0, rising, 13), rising + 13, 19), 0x46dd794eU);
}

/* Against a plain array as the model: inserts, replacements and removals in random order. */
Test(hmap, matches_a_model)
{
    enum { KEYS = 512, STEPS = 100000 };
    static void *model[KEYS];
    struct hmap m = HMAP_INIT;
    struct prng p;
    size_t pos = 0, seen = 0, live = 0;
    uint64_t key;
    void *value;

    prng_init(&p, 7);
    for (int step = 0; step < STEPS; step++) {
        uint64_t k = prng_below(&p, KEYS);

        if (prng_below(&p, 3) != 0) {
            void *v = &model[prng_below(&p, KEYS)];

            cr_assert_eq(hmap_put(&m, k, v), model[k]);
            model[k] = v;
        } else {
            cr_assert_eq(hmap_remove(&m, k), model[k]);
            model[k] = NULL;
        }
        k = prng_below(&p, KEYS);
        cr_assert_eq(hmap_get(&m, k), model[k]);
    }
    while (hmap_next(&m, &pos, &key, &value)) {
        cr_assert_eq(model[key], value);
        seen++;
    }
    for (int i = 0; i < KEYS; i++)
        live += model[i] != NULL;
    cr_assert_eq(seen, live);
    cr_assert_eq(m.count, live);
    hmap_fini(&m);
}

Test(buf, grows_and_consumes)
{
    struct buf b = BUF_INIT;

    for (int i = 0; i < 1000; i++)
        buf_appendf(&b, "%03d,", i);
    cr_assert_eq(b.len, 4000);
    buf_consume(&b, 4);
    cr_assert(memcmp(b.data, "001,", 4) == 0);
    cr_assert_eq(b.len, 3996);
    buf_fini(&b);
    cr_assert_null(b.data);
}

Test(buf, secrets_are_wiped)
{
    struct buf b = BUF_INIT;

    buf_wipe(&b);
    cr_assert_eq(b.len, 0);
    buf_append_secret(&b, "", 0);
    for (int i = 0; i < 100; i++)
        buf_append_secret(&b, "password", 8);
    cr_assert_eq(b.len, 800);
    for (int i = 0; i < 100; i++)
        cr_assert_eq(memcmp(b.data + 8 * i, "password", 8), 0);
    buf_consume(&b, 700); /* leaves what it moved: the wipe is of all */
    buf_wipe(&b);
    cr_assert_eq(b.len, 0);
    for (size_t i = 0; i < 800; i++)
        cr_assert_eq(b.data[i], 0);
    buf_fini(&b);
}

Test(list, order_and_removal)
{
    struct list head, a, b, c;

    list_init(&head);
    list_push_back(&head, &b);
    list_push_back(&head, &c);
    list_push_front(&head, &a);
    list_remove(&b);
    list_remove(&b);
    cr_assert_eq(list_pop_front(&head), &a);
    cr_assert_eq(list_pop_front(&head), &c);
    cr_assert_null(list_pop_front(&head));
}

Test(wire, reader_is_sticky_and_bounded)
{
    struct buf b = BUF_INIT;
    struct wire_reader r;

    wire_put_u32(&b, 7);
    wire_put_str(&b, "abc");
    for (size_t cut = 0; cut < b.len; cut++) {
        r = wire_reader(bytes_of(b.data, cut));
        wire_get_u32(&r);
        wire_get_bytes(&r);
        cr_assert_eq(wire_reader_done(&r), -EBADMSG, "cut at %zu", cut);
    }
    r = wire_reader(buf_bytes(&b));
    cr_assert_eq(wire_get_u32(&r), 7);
    cr_assert(bytes_eq(wire_get_bytes(&r), BYTES_LIT("abc")));
    cr_assert_eq(wire_reader_done(&r), 0);
    cr_assert_eq(wire_get_u8(&r), 0);
    cr_assert_eq(wire_reader_done(&r), -EBADMSG);
    buf_fini(&b);
}

Test(pb, round_trip_and_sizes)
{
    static const uint64_t values[] = {0, 1, 127, 128, 16383, 16384, UINT32_MAX, INT64_MAX, UINT64_MAX};

    for (size_t i = 0; i < ARRAY_LEN(values); i++) {
        struct buf b = BUF_INIT;
        struct pb_reader r;
        struct pb_field f;

        pb_put_u64(&b, 3, values[i]);
        cr_assert_eq(b.len, pb_size_u64(3, values[i]));
        pb_put_bytes(&b, 100, BYTES_LIT("hello"));
        r = pb_reader(buf_bytes(&b));
        if (values[i] != 0) {
            cr_assert(pb_next(&r, &f));
            cr_assert_eq(f.number, 3);
            cr_assert_eq(f.value, values[i]);
        }
        cr_assert(pb_next(&r, &f));
        cr_assert_eq(f.number, 100);
        cr_assert(bytes_eq(f.bytes, BYTES_LIT("hello")));
        cr_assert(!pb_next(&r, &f));
        cr_assert(!r.bad);
        buf_fini(&b);
    }
}

Test(pb, refuses_malformed)
{
    static const struct {
        const char *what;
        struct bytes in;
    } rows[] = {
        {"field number 0", BYTES_LIT("\x00\x01")},
        {"varint without end", BYTES_LIT("\x08\xff\xff")},
        {"varint over 64 bits", BYTES_LIT("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02")},
        {"length beyond the end", BYTES_LIT("\x0a\x05"
                                            "abc")},
        {"group", BYTES_LIT("\x0b")},
        {"short fixed64", BYTES_LIT("\x09\x01\x02")},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct pb_reader r = pb_reader(rows[i].in);
        struct pb_field f;

        while (pb_next(&r, &f))
            ;
        cr_assert(r.bad, "%s", rows[i].what);
    }
}

Test(url, dial_host)
{
    static const struct {
        const char *url, *host;
    } rows[] = {
        {"http://localhost:2380", "127.0.0.1"},
        {"http://10.0.0.1:2380", "10.0.0.1"},
        {"http://[::1]:2380", "::1"},
        {"http://localhost.example.org:2380", "localhost.example.org"},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char *error = NULL;
        struct url u;

        cr_assert_eq(url_parse(bytes_str(rows[i].url), &u, &error), 0, "%s", rows[i].url);
        cr_expect_str_eq(url_dial_host(&u), rows[i].host);
        url_fini(&u);
    }
}

static const char *hex_of(const uint8_t digest[SHA256_BYTES])
{
    static char text[2 * SHA256_BYTES + 1];

    for (size_t i = 0; i < SHA256_BYTES; i++)
        snprintf(text + 2 * i, 3, "%02x", digest[i]);
    return text;
}

Test(sha256, known_digests_at_once_and_in_pieces)
{
    static const struct {
        struct bytes data;
        const char *hex;
    } rows[] = {
        {BYTES_EMPTY, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {BYTES_LIT("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {BYTES_LIT("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct sha256 *s = sha256_new();
        uint8_t digest[SHA256_BYTES];

        sha256_of(rows[i].data, digest);
        cr_expect_str_eq(hex_of(digest), rows[i].hex);
        sha256_add(s, BYTES_EMPTY);
        for (size_t k = 0; k < rows[i].data.len; k++)
            sha256_add(s, bytes_of(rows[i].data.data + k, 1));
        sha256_end(s, digest);
        cr_expect_str_eq(hex_of(digest), rows[i].hex);
        sha256_free(s);
    }
    sha256_free(NULL);
}

/* RFC 4231 test cases 2 and 6: a short key, and one longer than a block. */
Test(sha256, known_macs)
{
    uint8_t key[131], mac[SHA256_BYTES];

    sha256_hmac(BYTES_LIT("Jefe"), BYTES_LIT("what do ya want for nothing?"), mac);
    cr_expect_str_eq(hex_of(mac),
                     "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    memset(key, 0xaa, sizeof(key));
    sha256_hmac(bytes_of(key, sizeof(key)),
                BYTES_LIT("Test Using Larger Than Block-Size Key - Hash Key First"), mac);
    cr_expect_str_eq(hex_of(mac),
                     "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}
