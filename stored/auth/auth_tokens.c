#include "stored/auth/auth_tokens.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

struct auth_token {
    struct list node;
    uint8_t digest[AUTH_TOKEN_DIGEST_BYTES];
    uint64_t index;
    uint64_t used_ms;
    size_t user_len;
    uint8_t user[];
};

static uint64_t key_of(const uint8_t digest[AUTH_TOKEN_DIGEST_BYTES])
{
    uint64_t key;

    memcpy(&key, digest, sizeof(key));
    return key;
}

static void drop(struct auth_tokens *t, struct auth_token *token)
{
    hmap_remove(&t->by_digest, key_of(token->digest));
    list_remove(&token->node);
    free(token);
}

void auth_tokens_init(struct auth_tokens *t, uint64_t ttl_ms)
{
    *t = (struct auth_tokens){.by_digest = HMAP_INIT, .ttl_ms = ttl_ms};
    list_init(&t->by_use);
}

void auth_tokens_clear(struct auth_tokens *t)
{
    while (!list_empty(&t->by_use))
        drop(t, LIST_ENTRY(t->by_use.next, struct auth_token, node));
}

void auth_tokens_fini(struct auth_tokens *t)
{
    auth_tokens_clear(t);
    hmap_fini(&t->by_digest);
}

void auth_tokens_set_clock(struct auth_tokens *t, uint64_t now_ms)
{
    t->now_ms = now_ms;
    while (!list_empty(&t->by_use)) {
        struct auth_token *oldest = LIST_ENTRY(t->by_use.next, struct auth_token, node);

        if (oldest->used_ms + t->ttl_ms > now_ms)
            return;
        drop(t, oldest);
    }
}

void auth_tokens_add(struct auth_tokens *t, const uint8_t digest[AUTH_TOKEN_DIGEST_BYTES],
                     uint64_t index, struct bytes user)
{
    struct auth_token *token = hmap_get(&t->by_digest, key_of(digest));

    if (token != NULL)
        drop(t, token);
    if (t->by_digest.count >= AUTH_TOKENS_MAX)
        drop(t, LIST_ENTRY(t->by_use.next, struct auth_token, node));
    token = xmalloc(sizeof(*token) + user.len);
    memcpy(token->digest, digest, AUTH_TOKEN_DIGEST_BYTES);
    token->index = index;
    token->used_ms = t->now_ms;
    token->user_len = user.len;
    memcpy(token->user, user.data, user.len);
    hmap_put(&t->by_digest, key_of(digest), token);
    list_push_back(&t->by_use, &token->node);
}

void auth_tokens_drop_user(struct auth_tokens *t, struct bytes user)
{
    LIST_FOREACH_SAFE(it, tmp, &t->by_use)
    {
        struct auth_token *token = LIST_ENTRY(it, struct auth_token, node);

        if (bytes_eq(bytes_of(token->user, token->user_len), user))
            drop(t, token);
    }
}

bool auth_token_index(struct bytes token, uint64_t *ret_index)
{
    const uint8_t *dot = memchr(token.data, '.', token.len);
    const uint8_t *end = token.data + token.len;
    uint64_t index = 0;

    if (token.len == 0 || dot == NULL || dot == token.data || dot + 1 == end)
        return false;
    for (const uint8_t *p = dot + 1; p < end; p++) {
        uint64_t digit = (uint64_t)*p - '0';

        if (*p < '0' || *p > '9' || index > (UINT64_MAX - digit) / 10)
            return false;
        index = index * 10 + digit;
    }
    *ret_index = index;
    return true;
}

bool auth_tokens_find(struct auth_tokens *t, struct bytes text, struct bytes *ret_user)
{
    uint8_t digest[AUTH_TOKEN_DIGEST_BYTES];
    struct auth_token *token;
    uint64_t index;
    size_t letters;

    if (!auth_token_index(text, &index))
        return false;
    letters = (size_t)((const uint8_t *)memchr(text.data, '.', text.len) - text.data);
    sha256_of(bytes_of(text.data, letters), digest);
    token = hmap_get(&t->by_digest, key_of(digest));
    if (token == NULL || token->index != index ||
        CRYPTO_memcmp(token->digest, digest, sizeof(digest)) != 0)
        return false;
    if (token->used_ms + t->ttl_ms <= t->now_ms) {
        drop(t, token);
        return false;
    }
    token->used_ms = t->now_ms;
    list_remove(&token->node);
    list_push_back(&t->by_use, &token->node);
    *ret_user = bytes_of(token->user, token->user_len);
    return true;
}
