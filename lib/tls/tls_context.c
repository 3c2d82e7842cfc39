/*
 * Set-up and reload. All that depends on files is in one SSL_CTX, built anew when a file changes, so
 * a half-replaced set (a new certificate before its key) is refused as a whole and the old one stays
 * in use. A new SSL_CTX has new ticket keys, so nothing that was verified by old rules is resumed.
 */
#include "lib/tls/tls_internal.h"

#include <assert.h>
#include <errno.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "lib/util/xmalloc.h"

enum {
    /* Two writes to a file within one tick of the kernel's clock have one time stamp. */
    STAMP_GRAIN_MS = 100,
    /* Tickets carry no client certificate that could be checked again, so these are for servers that
     * ask for none. */
    TICKET_S = 3600,
};

static const unsigned char http_protocols[] = "\x02h2\x08http/1.1";

static uint64_t clock_ms(clockid_t id)
{
    struct timespec t;

    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static bool verifies_peer(const struct tls_context *ctx)
{
    return ctx->role == TLS_CLIENT || ctx->require_cert || *ctx->files[TLS_FILE_CA] != '\0';
}

/* RFC 7301 section 3.2: nothing in common ends the handshake, as in Go. */
static int choose_protocol(SSL *ssl, const unsigned char **ret, unsigned char *ret_len,
                           const unsigned char *offered, unsigned int len, void *arg)
{
    unsigned char *chosen;

    if (SSL_select_next_proto(&chosen, ret_len, http_protocols, sizeof(http_protocols) - 1, offered,
                              len) != OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *ret = chosen;
    return SSL_TLSEXT_ERR_OK;
}

static void set_up_server(struct tls_context *ctx, SSL_CTX *ssl)
{
    static const unsigned char session_context[] = "conclave";

    SSL_CTX_set_options(ssl, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
    SSL_CTX_set_session_id_context(ssl, session_context, sizeof(session_context) - 1);
    if (verifies_peer(ctx)) {
        SSL_CTX_set_verify(ssl, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
        SSL_CTX_set_options(ssl, SSL_OP_NO_TICKET);
        SSL_CTX_set_num_tickets(ssl, 0);
    } else {
        SSL_CTX_set_num_tickets(ssl, 1);
        SSL_CTX_set_timeout(ssl, TICKET_S);
    }
    if (ctx->http) /* passwords come this way; only what was read is wiped, see tls_stream_rest */
        SSL_CTX_set_options(ssl, SSL_OP_CLEANSE_PLAINTEXT);
    if (ctx->http)
        SSL_CTX_set_alpn_select_cb(ssl, choose_protocol, NULL);
}

static SSL_CTX *new_ssl(struct tls_context *ctx)
{
    SSL_CTX *ssl = SSL_CTX_new(ctx->role == TLS_SERVER ? TLS_server_method() : TLS_client_method());

    if (ssl == NULL)
        return NULL;
    SSL_CTX_set_options(ssl, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                 SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_mode(ssl, SSL_MODE_AUTO_RETRY);
    SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_cert_verify_callback(ssl, tls_verify_peer, ctx);
    /* every certificate of the file is an anchor, also one that another authority signed: as in Go */
    X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(ssl), X509_V_FLAG_PARTIAL_CHAIN);
    if (ctx->role == TLS_SERVER)
        set_up_server(ctx, ssl);
    else
        SSL_CTX_set_verify(ssl, SSL_VERIFY_PEER, NULL);
    return ssl;
}

static int load(struct tls_context *ctx, SSL_CTX *ssl, STACK_OF(X509_CRL) * *ret_crls,
                char **ret_error)
{
    int r = tls_set_versions(ssl, ctx->min_version, ctx->max_version, ret_error);

    if (r == 0)
        r = tls_set_suites(ssl, ctx->cipher_suites, ret_error);
    if (r == 0 && *ctx->files[TLS_FILE_CERT] != '\0')
        r = tls_load_key_pair(ssl, ctx->files[TLS_FILE_CERT], ctx->files[TLS_FILE_KEY], ret_error);
    if (r == 0 && *ctx->files[TLS_FILE_CA] != '\0')
        r = tls_load_authorities(ssl, ctx->files[TLS_FILE_CA], ctx->role == TLS_SERVER, ret_error);
    else if (r == 0 && verifies_peer(ctx) && SSL_CTX_set_default_verify_paths(ssl) != 1)
        r = -EIO;
    if (r == 0 && *ctx->files[TLS_FILE_CRL] != '\0')
        r = tls_load_crls(ctx->files[TLS_FILE_CRL], ret_crls, ret_error);
    if (r < 0 && *ret_error == NULL)
        *ret_error = xstrdup("OpenSSL refused the settings");
    return r;
}

static void take_stamps(const struct tls_context *ctx, struct tls_stamp *stamps, bool *ret_young)
{
    uint64_t now_ms = clock_ms(CLOCK_REALTIME);

    *ret_young = false;
    for (size_t i = 0; i < TLS_FILES; i++) {
        struct stat st;

        stamps[i] = (struct tls_stamp){0};
        if (*ctx->files[i] == '\0' || stat(ctx->files[i], &st) != 0)
            continue;
        stamps[i] = (struct tls_stamp){.there = true,
                                       .dev = st.st_dev,
                                       .ino = st.st_ino,
                                       .size = st.st_size,
                                       .mtime = st.st_mtim,
                                       .ctime = st.st_ctim};
        if ((uint64_t)st.st_ctim.tv_sec * 1000 + (uint64_t)st.st_ctim.tv_nsec / 1000000 +
                STAMP_GRAIN_MS >=
            now_ms)
            *ret_young = true;
    }
}

static bool same_time(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static bool same_stamps(const struct tls_stamp *a, const struct tls_stamp *b)
{
    for (size_t i = 0; i < TLS_FILES; i++) {
        if (a[i].there != b[i].there || a[i].dev != b[i].dev || a[i].ino != b[i].ino ||
            a[i].size != b[i].size || !same_time(&a[i].mtime, &b[i].mtime) ||
            !same_time(&a[i].ctime, &b[i].ctime))
            return false;
    }
    return true;
}

/* The stamps are from before the files are read, so a change while we read is seen next time. */
static int context_load(struct tls_context *ctx, char **ret_error)
{
    STACK_OF(X509_CRL) *crls = NULL;
    SSL_CTX *ssl;
    int r;

    take_stamps(ctx, ctx->stamps, &ctx->unsettled);
    ctx->loaded_ms = clock_ms(CLOCK_MONOTONIC);
    ssl = new_ssl(ctx);
    if (ssl == NULL) {
        *ret_error = xstrdup("OpenSSL cannot make a context");
        return -ENOMEM;
    }
    r = load(ctx, ssl, &crls, ret_error);
    ERR_clear_error();
    if (r < 0) {
        SSL_CTX_free(ssl);
        return r;
    }
    SSL_CTX_free(ctx->ssl); /* streams hold references of their own */
    ctx->ssl = ssl;
    tls_free_crls(ctx->crls);
    ctx->crls = crls;
    return 0;
}

void tls_context_refresh(struct tls_context *ctx)
{
    struct tls_stamp now[TLS_FILES];
    CLEANUP(freep) char *error = NULL;
    bool young, changed;
    int r;

    take_stamps(ctx, now, &young);
    changed = !same_stamps(now, ctx->stamps);
    if (!changed &&
        (!ctx->unsettled || clock_ms(CLOCK_MONOTONIC) < ctx->loaded_ms + STAMP_GRAIN_MS))
        return;
    r = context_load(ctx, &error);
    if (ctx->on_reload != NULL && (changed || ctx->failed != (r < 0)))
        ctx->on_reload(ctx->user, r < 0 ? error : NULL);
    ctx->failed = r < 0;
}

static char *copy(const char *text)
{
    return xstrdup(text != NULL ? text : "");
}

int tls_context_new(const struct tls_args *args, struct tls_context **ret, char **ret_error)
{
    struct tls_context *ctx = xcalloc(1, sizeof(*ctx));
    int r;

    ctx->role = args->role;
    ctx->files[TLS_FILE_CERT] = copy(args->cert_file);
    ctx->files[TLS_FILE_KEY] = copy(args->key_file);
    ctx->files[TLS_FILE_CA] = copy(args->ca_file);
    ctx->files[TLS_FILE_CRL] = copy(args->crl_file);
    ctx->allowed_cn = copy(args->allowed_cn);
    ctx->allowed_hostname = copy(args->allowed_hostname);
    ctx->cipher_suites = copy(args->cipher_suites);
    ctx->min_version = copy(args->min_version);
    ctx->max_version = copy(args->max_version);
    ctx->require_cert = args->require_cert;
    ctx->skip_verify = args->skip_verify;
    ctx->http = args->http;
    ctx->on_reload = args->on_reload;
    ctx->user = args->user;
    ctx->bio_method = tls_bio_method_new();
    *ret_error = NULL;
    r = tls_check_suites(ctx->cipher_suites, ctx->min_version, ctx->max_version, ret_error);
    if (r == 0 && *ctx->allowed_cn != '\0' && *ctx->allowed_hostname != '\0') {
        *ret_error = xasprintf("AllowedCN and AllowedHostname are mutually exclusive (cn=\"%s\", "
                               "hostname=\"%s\")",
                               ctx->allowed_cn, ctx->allowed_hostname);
        r = -EINVAL;
    }
    if (r == 0 && ctx->role == TLS_SERVER && *ctx->files[TLS_FILE_CERT] == '\0') {
        *ret_error = xasprintf("KeyFile and CertFile must both be present[key: %s, cert: %s]",
                               ctx->files[TLS_FILE_KEY], ctx->files[TLS_FILE_CERT]);
        r = -EINVAL;
    }
    if (r == 0)
        r = context_load(ctx, ret_error);
    if (r < 0) {
        tls_context_free(ctx);
        return r;
    }
    *ret = ctx;
    return 0;
}

void tls_context_free(struct tls_context *ctx)
{
    if (ctx == NULL)
        return;
    SSL_CTX_free(ctx->ssl);
    tls_free_crls(ctx->crls);
    BIO_meth_free(ctx->bio_method);
    for (size_t i = 0; i < TLS_FILES; i++)
        free(ctx->files[i]);
    free(ctx->allowed_cn);
    free(ctx->allowed_hostname);
    free(ctx->cipher_suites);
    free(ctx->min_version);
    free(ctx->max_version);
    buf_fini(&ctx->out);
    OPENSSL_cleanse(ctx->gather, sizeof(ctx->gather));
    free(ctx);
}
