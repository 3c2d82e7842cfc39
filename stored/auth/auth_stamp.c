#include "stored/auth/auth_stamp.h"

#include <assert.h>
#include <openssl/crypto.h>
#include <string.h>
#include <xxhash.h>
#include "lib/util/sha256.h"
#include "lib/wire/wire.h"

enum { STAMP_VERSION = 1 };

void auth_stamps_fini(struct auth_stamps *s)
{
    for (size_t i = 0; i < AUTH_STAMPS_KNOWN; i++)
        buf_fini(&s->known[i]);
    explicit_bzero(s->key, sizeof(s->key));
}

static void sign(const struct auth_store *a, struct bytes text, uint8_t ret_mac[SHA256_BYTES])
{
    sha256_hmac(bytes_of(a->key, sizeof(a->key)), text, ret_mac);
}

void auth_stamp_encode(struct buf *b, const struct auth_store *a, const struct auth_identity *who)
{
    uint8_t mac[SHA256_BYTES];
    size_t at = b->len;

    assert(a->has_key);
    wire_put_u8(b, STAMP_VERSION);
    wire_put_u64(b, who->revision);
    wire_put_bytes(b, who->name);
    sign(a, bytes_of(b->data + at, b->len - at), mac);
    buf_append(b, mac, AUTH_STAMP_MAC_BYTES);
}

static bool decode(struct bytes stamp, struct auth_identity *ret_who)
{
    struct wire_reader r;

    if (stamp.len <= AUTH_STAMP_MAC_BYTES)
        return false;
    r = wire_reader(bytes_of(stamp.data, stamp.len - AUTH_STAMP_MAC_BYTES));
    if (wire_get_u8(&r) != STAMP_VERSION)
        return false;
    ret_who->revision = wire_get_u64(&r);
    ret_who->name = wire_get_bytes(&r);
    return wire_reader_done(&r) == 0 && ret_who->name.len > 0;
}

static bool mac_is_right(const struct auth_store *a, struct bytes stamp)
{
    uint8_t mac[SHA256_BYTES];
    size_t len = stamp.len - AUTH_STAMP_MAC_BYTES;

    sign(a, bytes_of(stamp.data, len), mac);
    return CRYPTO_memcmp(mac, stamp.data + len, AUTH_STAMP_MAC_BYTES) == 0;
}

bool auth_stamp_verify(struct auth_stamps *s, const struct auth_store *a, struct bytes stamp,
                       struct auth_identity *ret_who)
{
    struct buf *known;

    *ret_who = (struct auth_identity){0};
    if (stamp.len == 0)
        return true;
    if (!a->has_key || !decode(stamp, ret_who))
        return false;
    if (memcmp(s->key, a->key, sizeof(s->key)) != 0) {
        auth_stamps_fini(s);
        memcpy(s->key, a->key, sizeof(s->key));
    }
    known = &s->known[XXH3_64bits(stamp.data, stamp.len) % AUTH_STAMPS_KNOWN];
    if (bytes_eq(buf_bytes(known), stamp))
        return true;
    if (!mac_is_right(a, stamp))
        return false;
    buf_clear(known);
    buf_append_bytes(known, stamp);
    return true;
}
