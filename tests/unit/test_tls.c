/* lib/tls under lib/http: our client against our server, and raw sockets against our server, in one
 * hand-turned loop. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include "lib/http/http_client.h"
#include "lib/http/http_server.h"
#include "lib/loop/loop.h"
#include "lib/tls/tls.h"
#include "lib/util/buf.h"
#include "lib/util/xmalloc.h"
#include "tests/unit/tls_certs.h"

enum { BIG_BYTES = 5 * 1024 * 1024 + 17, REVOKED = 77 };

static const char *dir;

static void make_certs(void)
{
    static const struct tls_cert_args certs[] = {
        {.name = "ca", .cn = "authority"},
        {.name = "other-ca", .cn = "another authority"},
        {.name = "server", .issuer = "ca", .cn = "server", .san = "IP:127.0.0.1,DNS:localhost"},
        {.name = "server2", .issuer = "other-ca", .cn = "server2", .san = "IP:127.0.0.1"},
        {.name = "expired-server", .issuer = "ca", .cn = "s", .san = "IP:127.0.0.1", .expired = true},
        {.name = "elsewhere", .issuer = "ca", .cn = "127.0.0.1", .san = "DNS:elsewhere.example"},
        {.name = "cn-only", .issuer = "ca", .cn = "127.0.0.1"},
        {.name = "alice", .issuer = "ca", .cn = "alice", .san = "DNS:a.example.com"},
        {.name = "nobody", .issuer = "ca"},
        {.name = "revoked", .issuer = "ca", .cn = "alice", .serial = REVOKED},
        {.name = "expired", .issuer = "ca", .cn = "alice", .expired = true},
        {.name = "stranger", .issuer = "other-ca", .cn = "alice"},
        {.name = "not-a-client", .issuer = "ca", .cn = "alice", .usage = "serverAuth"},
        {.name = "self", .cn = "alice"},
    };
    const long serials[] = {5, REVOKED, 9};

    dir = tls_test_dir();
    for (size_t i = 0; i < ARRAY_LEN(certs); i++) {
        struct tls_cert_args args = certs[i];

        args.dir = dir;
        tls_cert_make(&args);
    }
    tls_crl_make(dir, "pem", "ca", serials, ARRAY_LEN(serials), true);
    tls_crl_make(dir, "der", "ca", serials, ARRAY_LEN(serials), false);
    tls_crl_make(dir, "empty", "ca", NULL, 0, true);
    tls_file_write(tls_path(dir, "nonsense"), "nonsense\n");
}

static void remove_certs(void)
{
    tls_test_dir_remove(dir);
}

TestSuite(tls, .fini = remove_certs);

static const char *file(const char *name)
{
    return name != NULL ? tls_path(dir, name) : NULL;
}

/* ---- the two sides ---- */

struct net {
    struct loop *loop;
    struct tls_context *server_tls, *client_tls;
    struct http_server *server;
    uint16_t port;
    char rejected[256];
    size_t rejected_count, reload_count, reload_errors;
    char reload_error[256];
    struct http_client *client;
    bool connected, disconnected;
    int error;
};

static uint8_t *big;

static enum http_body_mode on_req_headers(void *user, struct http_req *req, size_t *max)
{
    *max = 2 * BIG_BYTES;
    return HTTP_BODY_BUFFER;
}

static void on_request(void *user, struct http_req *req)
{
    struct bytes body = http_req_body(req);

    if (bytes_eq(http_req_path(req), BYTES_LIT("/cn")))
        body = bytes_str(http_req_peer_cn(req) != NULL ? http_req_peer_cn(req) : "-");
    else if (bytes_eq(http_req_path(req), BYTES_LIT("/scheme")))
        body = http_req_scheme(req);
    else if (bytes_eq(http_req_path(req), BYTES_LIT("/big")))
        body = bytes_of(big, BIG_BYTES);
    http_respond(req, &(struct http_response){.status = 200, .body = &body, .body_count = 1});
}

static void on_req_closed(void *user, struct http_req *req)
{
}

static void on_rejected(void *user, const char *peer, const char *why)
{
    struct net *n = user;

    n->rejected_count++;
    snprintf(n->rejected, sizeof(n->rejected), "%s", why);
}

static const struct http_handler handler = {.on_headers = on_req_headers,
                                            .on_request = on_request,
                                            .on_closed = on_req_closed,
                                            .on_rejected = on_rejected};

static void on_reload(void *user, const char *error)
{
    struct net *n = user;

    n->reload_count++;
    n->reload_errors += error != NULL;
    snprintf(n->reload_error, sizeof(n->reload_error), "%s", error != NULL ? error : "");
}

static struct tls_context *context(struct tls_args args)
{
    CLEANUP(freep) char *error = NULL;
    struct tls_context *ctx = NULL;

    cr_assert_eq(tls_context_new(&args, &ctx, &error), 0, "%s", error);
    return ctx;
}

static void net_init(struct net *n, struct tls_args server, const struct http_limits *limits)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    memset(n, 0, sizeof(*n));
    n->loop = loop_new();
    server.role = TLS_SERVER;
    server.http = true;
    server.on_reload = on_reload;
    server.user = n;
    n->server_tls = context(server);
    n->server = http_server_new(n->loop, &handler, n, limits);
    cr_assert_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    cr_assert_eq(listen(fd, 10), 0);
    cr_assert_eq(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
    cr_assert_eq(http_server_listen_tls(n->server, fd, n->server_tls), 0);
    n->port = ntohs(addr.sin_port);
}

static void on_connected(void *user, struct http_client *client)
{
    ((struct net *)user)->connected = true;
}

static void on_disconnected(void *user, struct http_client *client, int error)
{
    struct net *n = user;

    n->disconnected = true;
    n->error = error;
}

static const struct http_client_handler client_handler = {on_connected, on_disconnected};

static void dial(struct net *n, struct tls_args args, enum http_version version, const char *name)
{
    struct http_client_options options = {.version = version, .tls_name = name};

    args.role = TLS_CLIENT;
    n->client_tls = context(args);
    options.tls = n->client_tls;
    n->connected = n->disconnected = false;
    n->client =
        http_client_connect(n->loop, "127.0.0.1", n->port, &options, &client_handler, n);
    cr_assert_not_null(n->client);
}

static void hang_up(struct net *n)
{
    http_client_free(n->client);
    n->client = NULL;
    tls_context_free(n->client_tls);
    n->client_tls = NULL;
}

static void net_fini(struct net *n)
{
    if (n->client != NULL)
        hang_up(n);
    http_server_free(n->server);
    loop_free(n->loop);
    tls_context_free(n->server_tls);
}

struct answer {
    struct buf body;
    bool closed;
    int error;
};

static void on_data(void *user, struct http_call *call, struct bytes data)
{
    buf_append_bytes(&((struct answer *)user)->body, data);
}

static void on_closed(void *user, struct http_call *call, int error)
{
    struct answer *a = user;

    a->closed = true;
    a->error = error;
}

static const struct http_call_handler call_handler = {.on_data = on_data, .on_closed = on_closed};

/* 0, and the answer's body in *ret; or what went wrong. */
static int ask(struct net *n, const char *path, struct bytes body, struct buf *ret)
{
    struct answer a = {0};
    const struct http_call_args args = {.method = BYTES_LIT("POST"),
                                        .path = bytes_str(path),
                                        .body = &body,
                                        .body_count = 1,
                                        .handler = &call_handler,
                                        .user = &a};

    if (http_call_start(n->client, &args) == NULL)
        return -errno;
    while (!a.closed)
        loop_run_once(n->loop, 100);
    if (ret != NULL)
        *ret = a.body;
    else
        buf_fini(&a.body);
    return a.error;
}

/* ---- who may talk to whom ---- */

Test(tls, handshakes)
{
    static const struct {
        const char *what;
        /* the server's */
        const char *cert, *ca, *crl, *allowed_cn, *allowed_hostname, *suites, *min, *max;
        /* the client's */
        const char *client, *client_ca, *name, *client_suites, *client_max;
        const char *cn;       /* what the server knows; NULL: refused */
        const char *rejected; /* part of what the server says; NULL: does not matter */
        const char *error;    /* part of what the client says; NULL: does not matter */
    } rows[] = {
        {.what = "plain server TLS", .cert = "server", .client_ca = "ca.pem", .cn = "-"},
        {.what = "by name", .cert = "server", .client_ca = "ca.pem", .name = "localhost", .cn = "-"},
        {.what = "mutual", .cert = "server", .ca = "ca.pem", .client = "alice",
         .client_ca = "ca.pem", .cn = "alice"},
        {.what = "a certificate nobody asked for", .cert = "server", .client = "alice",
         .client_ca = "ca.pem", .cn = "-"},
        {.what = "a subject without a common name", .cert = "server", .ca = "ca.pem",
         .client = "nobody", .client_ca = "ca.pem", .cn = "-"},
        {.what = "the leaf itself is trusted", .cert = "server", .ca = "self.pem",
         .client = "self", .client_ca = "server.pem", .cn = "alice"},
        {.what = "no client certificate", .cert = "server", .ca = "ca.pem", .client_ca = "ca.pem",
         .rejected = "peer did not return a certificate"},
        {.what = "another authority's client", .cert = "server", .ca = "ca.pem",
         .client = "stranger", .client_ca = "ca.pem", .rejected = "certificate verify failed"},
        {.what = "expired client", .cert = "server", .ca = "ca.pem", .client = "expired",
         .client_ca = "ca.pem", .rejected = "certificate has expired"},
        {.what = "not for clients", .cert = "server", .ca = "ca.pem", .client = "not-a-client",
         .client_ca = "ca.pem", .rejected = "certificate verify failed"},
        {.what = "revoked client", .cert = "server", .ca = "ca.pem", .crl = "pem.crl",
         .client = "revoked", .client_ca = "ca.pem", .rejected = "certificate is revoked"},
        {.what = "revoked client, DER", .cert = "server", .ca = "ca.pem", .crl = "der.crl",
         .client = "revoked", .client_ca = "ca.pem", .rejected = "certificate is revoked"},
        {.what = "not revoked", .cert = "server", .ca = "ca.pem", .crl = "pem.crl",
         .client = "alice", .client_ca = "ca.pem", .cn = "alice"},
        {.what = "nobody is revoked", .cert = "server", .ca = "ca.pem", .crl = "empty.crl",
         .client = "revoked", .client_ca = "ca.pem", .cn = "alice"},
        {.what = "common name allowed", .cert = "server", .ca = "ca.pem", .allowed_cn = "bob,alice",
         .client = "alice", .client_ca = "ca.pem", .cn = "alice"},
        {.what = "common name not allowed", .cert = "server", .ca = "ca.pem",
         .allowed_cn = "bob,alic", .client = "alice", .client_ca = "ca.pem",
         .rejected = "client certificate authentication failed"},
        {.what = "no common name, one needed", .cert = "server", .ca = "ca.pem",
         .allowed_cn = "bob", .client = "nobody", .client_ca = "ca.pem",
         .rejected = "client certificate authentication failed"},
        {.what = "host name allowed", .cert = "server", .ca = "ca.pem",
         .allowed_hostname = "b.example.com,a.example.com", .client = "alice",
         .client_ca = "ca.pem", .cn = "alice"},
        {.what = "host name not allowed", .cert = "server", .ca = "ca.pem",
         .allowed_hostname = "alice", .client = "alice", .client_ca = "ca.pem",
         .rejected = "client certificate authentication failed"},
        {.what = "unknown server", .cert = "server2", .client_ca = "ca.pem",
         .error = "certificate verify failed"},
        {.what = "expired server", .cert = "expired-server", .client_ca = "ca.pem",
         .error = "certificate has expired"},
        {.what = "a server for another name", .cert = "elsewhere", .client_ca = "ca.pem",
         .error = "certificate verify failed: IP address mismatch"},
        {.what = "a common name is no address", .cert = "cn-only", .client_ca = "ca.pem",
         .error = "certificate verify failed: IP address mismatch"},
        {.what = "another name", .cert = "server", .client_ca = "ca.pem", .name = "example.com",
         .error = "certificate verify failed: hostname mismatch"},
        {.what = "TLS 1.2", .cert = "server", .max = "TLS1.2", .client_ca = "ca.pem", .cn = "-"},
        {.what = "mutual by TLS 1.2", .cert = "server", .ca = "ca.pem", .client = "alice",
         .client_ca = "ca.pem", .client_max = "TLS1.2", .cn = "alice"},
        {.what = "no version in common", .cert = "server", .min = "TLS1.3", .client_ca = "ca.pem",
         .client_max = "TLS1.2", .rejected = "unsupported protocol"},
        {.what = "a suite in common", .cert = "server", .max = "TLS1.2", .client_ca = "ca.pem",
         .suites = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,TLS_RSA_WITH_AES_128_CBC_SHA",
         .client_suites = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", .cn = "-"},
        {.what = "no suite in common", .cert = "server", .max = "TLS1.2", .client_ca = "ca.pem",
         .suites = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
         .client_suites = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", .rejected = "no shared cipher"},
    };
    static const enum http_version versions[] = {HTTP_VERSION_2, HTTP_VERSION_1_1};

    make_certs();
    for (size_t i = 0; i < 2 * ARRAY_LEN(rows); i++) {
        CLEANUP(freep) char *cert = xasprintf("%s.pem", rows[i / 2].cert);
        CLEANUP(freep) char *key = xasprintf("%s.key", rows[i / 2].cert);
        const char *client = rows[i / 2].client != NULL ? rows[i / 2].client : "server";
        CLEANUP(freep) char *client_cert = xasprintf("%s.pem", client);
        CLEANUP(freep) char *client_key = xasprintf("%s.key", client);
        struct buf body = BUF_INIT;
        struct net n;
        int r;

#define ROW rows[i / 2]
        net_init(&n,
                 (struct tls_args){.cert_file = file(cert),
                                   .key_file = file(key),
                                   .ca_file = file(ROW.ca),
                                   .crl_file = file(ROW.crl),
                                   .allowed_cn = ROW.allowed_cn,
                                   .allowed_hostname = ROW.allowed_hostname,
                                   .cipher_suites = ROW.suites,
                                   .min_version = ROW.min,
                                   .max_version = ROW.max},
                 NULL);
        dial(&n,
             (struct tls_args){.cert_file = ROW.client != NULL ? file(client_cert) : NULL,
                               .key_file = ROW.client != NULL ? file(client_key) : NULL,
                               .ca_file = file(ROW.client_ca),
                               .cipher_suites = ROW.client_suites,
                               .max_version = ROW.client_max},
             versions[i % 2], ROW.name);
        r = ask(&n, "/cn", BYTES_EMPTY, &body);
        if (ROW.cn != NULL) {
            cr_expect_eq(r, 0, "%s: %d", ROW.what, r);
            cr_expect(bytes_eq(buf_bytes(&body), bytes_str(ROW.cn)), "%s: %.*s", ROW.what,
                      (int)body.len, (const char *)body.data);
            cr_expect_eq(n.rejected_count, 0, "%s: %s", ROW.what, n.rejected);
        } else {
            cr_expect_lt(r, 0, "%s", ROW.what);
            while (n.rejected_count == 0)
                loop_run_once(n.loop, 100);
        }
        if (ROW.rejected != NULL)
            cr_expect_not_null(strstr(n.rejected, ROW.rejected), "%s: %s", ROW.what, n.rejected);
        if (ROW.error != NULL)
            cr_expect_not_null(strstr(http_client_tls_error(n.client), ROW.error), "%s: %s",
                               ROW.what, http_client_tls_error(n.client));
#undef ROW
        buf_fini(&body);
        net_fini(&n);
    }
}

Test(tls, settings_that_cannot_be)
{
    static const struct {
        const char *cert, *key, *ca, *crl, *cn, *hostname, *suites, *min, *max;
        const char *error; /* %: the directory */
    } rows[] = {
        {.error = "KeyFile and CertFile must both be present[key: , cert: ]"},
        {"none", "server.key", .error = "open %/none: no such file or directory"},
        {"server.pem", "none", .error = "open %/none: no such file or directory"},
        {"nonsense", "server.key",
         .error = "%/nonsense: tls: failed to find any PEM data in certificate input"},
        {"server.pem", "nonsense", .error = "%/nonsense: tls: failed to find any PEM data in key input"},
        {"server.pem", "alice.key",
         .error = "%/alice.key: tls: private key does not match public key"},
        {"server.pem", "server.key", "none", .error = "open %/none: no such file or directory"},
        {"server.pem", "server.key", "nonsense", .error = "%/nonsense: there is no certificate in it"},
        {"server.pem", "server.key", ".", .error = "open %/.: is a directory"},
        {"server.pem", "server.key", "ca.pem", "none",
         .error = "open %/none: no such file or directory"},
        {"server.pem", "server.key", "ca.pem", "nonsense",
         .error = "%/nonsense: there is no revocation list in it"},
        {"server.pem", "server.key", .cn = "a", .hostname = "b",
         .error = "AllowedCN and AllowedHostname are mutually exclusive (cn=\"a\", hostname=\"b\")"},
        {"server.pem", "server.key", .suites = "TLS_RSA_WITH_AES_128_CBC_SHA,X",
         .error = "unexpected TLS cipher suite \"X\""},
        {"server.pem", "server.key", .suites = "TLS_RSA_WITH_RC4_128_SHA",
         .error = "none of the TLS cipher suites TLS_RSA_WITH_RC4_128_SHA can be used for TLS 1.2"},
        {"server.pem", "server.key", .min = "TLS1.1",
         .error = "unexpected TLS version \"TLS1.1\" (must be one of: TLS1.2, TLS1.3)"},
        {"server.pem", "server.key", .min = "TLS1.3", .max = "TLS1.2",
         .error = "min version (TLS1.3) is greater than max version (TLS1.2)"},
    };

    make_certs();
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct tls_args args = {.role = TLS_SERVER,
                                      .cert_file = file(rows[i].cert),
                                      .key_file = file(rows[i].key),
                                      .ca_file = file(rows[i].ca),
                                      .crl_file = file(rows[i].crl),
                                      .allowed_cn = rows[i].cn,
                                      .allowed_hostname = rows[i].hostname,
                                      .cipher_suites = rows[i].suites,
                                      .min_version = rows[i].min,
                                      .max_version = rows[i].max};
        const char *mark = strchr(rows[i].error, '%');
        CLEANUP(freep) char *error = NULL;
        CLEANUP(freep)
        char *want = mark == NULL ? xstrdup(rows[i].error)
                                  : xasprintf("%.*s%s%s", (int)(mark - rows[i].error),
                                              rows[i].error, dir, mark + 1);
        struct tls_context *ctx = NULL;

        cr_expect_lt(tls_context_new(&args, &ctx, &error), 0, "row %zu", i);
        cr_assert_null(ctx);
        cr_expect_str_eq(error, want);
    }
}

/* ---- data ---- */

Test(tls, much_data_both_ways)
{
    static const enum http_version versions[] = {HTTP_VERSION_2, HTTP_VERSION_1_1};

    make_certs();
    big = xmalloc(BIG_BYTES);
    for (size_t i = 0; i < BIG_BYTES; i++)
        big[i] = (uint8_t)(i * 31 + i / 251);
    for (size_t v = 0; v < ARRAY_LEN(versions); v++) {
        struct buf body = BUF_INIT;
        struct net n;

        net_init(&n,
                 (struct tls_args){.cert_file = file("server.pem"), .key_file = file("server.key")},
                 NULL);
        dial(&n, (struct tls_args){.ca_file = file("ca.pem")}, versions[v], NULL);
        cr_expect_eq(ask(&n, "/big", BYTES_EMPTY, &body), 0);
        cr_expect(bytes_eq(buf_bytes(&body), bytes_of(big, BIG_BYTES)));
        buf_fini(&body);
        cr_expect_eq(ask(&n, "/echo", bytes_of(big, BIG_BYTES), &body), 0);
        cr_expect(bytes_eq(buf_bytes(&body), bytes_of(big, BIG_BYTES)));
        buf_fini(&body);
        cr_expect_eq(ask(&n, "/scheme", BYTES_EMPTY, &body), 0);
        cr_expect(bytes_eq(buf_bytes(&body), BYTES_LIT("https")));
        buf_fini(&body);
        cr_expect_eq(http_server_counters(n.server)->handshakes, 1);
        net_fini(&n);
    }
    free(big);
}

/* ---- strange clients ---- */

static int raw_connect(const struct net *n)
{
    struct sockaddr_in addr = {.sin_family = AF_INET,
                               .sin_port = htons(n->port),
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    cr_assert_eq(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

/* Until the server has closed it; how much came. */
static size_t drain(struct net *n, int fd)
{
    char data[4096];
    size_t total = 0;

    for (;;) {
        ssize_t got = recv(fd, data, sizeof(data), 0);

        if (got > 0) {
            total += (size_t)got;
        } else if (got == 0 || errno != EAGAIN) {
            close(fd);
            return total;
        } else {
            loop_run_once(n->loop, 5);
        }
    }
}

Test(tls, what_is_not_tls)
{
    static const char *const said[] = {
        "GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\x16\x03\x01\xff\xff\x01",
        "\x16\x03\x01\x01\x01\x01zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz"
        "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz"
        "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz"
        "zzzzzzzzz",
    };
    struct net n;

    make_certs();
    net_init(&n, (struct tls_args){.cert_file = file("server.pem"), .key_file = file("server.key")},
             NULL);
    for (size_t i = 0; i < ARRAY_LEN(said); i++) {
        int fd = raw_connect(&n);

        cr_assert_gt(send(fd, said[i], strlen(said[i]), 0), 0);
        drain(&n, fd);
        cr_expect_eq(n.rejected_count, i + 1, "row %zu", i);
    }
    cr_expect_eq(http_server_counters(n.server)->connections, 0);
    cr_expect_eq(http_server_counters(n.server)->handshake_errors, ARRAY_LEN(said));
    net_fini(&n);
}

Test(tls, who_says_too_little_is_sent_away)
{
    struct http_limits limits = http_limits_default;
    struct net n;
    int fds[2];

    make_certs();
    limits.header_ms_max = 50;
    net_init(&n, (struct tls_args){.cert_file = file("server.pem"), .key_file = file("server.key")},
             &limits);
    fds[0] = raw_connect(&n);
    fds[1] = raw_connect(&n);
    cr_assert_eq(send(fds[1], "\x16\x03\x01", 3, 0), 3);
    drain(&n, fds[0]);
    drain(&n, fds[1]);
    cr_expect_eq(n.rejected_count, 2);
    cr_expect_str_eq(n.rejected, "TLS handshake timeout");
    net_fini(&n);
}

/* A client over memory, so that its bytes can be handed on in any pieces. */
struct raw {
    SSL_CTX *ctx;
    SSL *ssl;
    BIO *in, *out;
    int fd;
};

static void raw_init(struct raw *c, const struct net *n, int max_version)
{
    c->ctx = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_security_level(c->ctx, 0);
    SSL_CTX_set_min_proto_version(c->ctx, TLS1_VERSION);
    SSL_CTX_set_max_proto_version(c->ctx, max_version);
    c->ssl = SSL_new(c->ctx);
    c->in = BIO_new(BIO_s_mem());
    c->out = BIO_new(BIO_s_mem());
    SSL_set_bio(c->ssl, c->in, c->out);
    SSL_set_connect_state(c->ssl);
    c->fd = raw_connect(n);
}

/* Hands on what either side has, a byte at a time. False: the server has closed. */
static bool raw_turn(struct raw *c, struct net *n)
{
    char data[4096];
    ssize_t got;
    int len;

    while ((len = BIO_read(c->out, data, 1)) == 1) {
        if (send(c->fd, data, 1, MSG_NOSIGNAL) != 1)
            return false;
        loop_run_once(n->loop, 0);
    }
    loop_run_once(n->loop, 2);
    got = recv(c->fd, data, sizeof(data), 0);
    if (got > 0)
        BIO_write(c->in, data, (int)got);
    return got > 0 || (got < 0 && errno == EAGAIN);
}

static void raw_fini(struct raw *c)
{
    SSL_free(c->ssl);
    SSL_CTX_free(c->ctx);
    close(c->fd);
}

Test(tls, byte_by_byte)
{
    static const char request[] = "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello";
    static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};

    make_certs();
    for (size_t v = 0; v < ARRAY_LEN(versions); v++) {
        char answer[1024] = "";
        struct raw c;
        struct net n;
        int len = -1;

        net_init(&n,
                 (struct tls_args){.cert_file = file("server.pem"), .key_file = file("server.key")},
                 NULL);
        raw_init(&c, &n, versions[v]);
        while (SSL_do_handshake(c.ssl) != 1)
            cr_assert(raw_turn(&c, &n));
        cr_assert_eq(SSL_write(c.ssl, request, (int)sizeof(request) - 1), (int)sizeof(request) - 1);
        while (len <= 0) {
            cr_assert(raw_turn(&c, &n));
            len = SSL_read(c.ssl, answer, sizeof(answer) - 1);
        }
        cr_expect_eq(strncmp(answer, "HTTP/1.1 200 OK\r\n", 17), 0, "%s", answer);
        cr_expect_str_eq(answer + strlen(answer) - 5, "hello");
        raw_fini(&c);
        net_fini(&n);
    }
}

Test(tls, an_old_client)
{
    struct raw c;
    struct net n;

    make_certs();
    net_init(&n, (struct tls_args){.cert_file = file("server.pem"), .key_file = file("server.key")},
             NULL);
    raw_init(&c, &n, TLS1_1_VERSION);
    do
        SSL_do_handshake(c.ssl);
    while (raw_turn(&c, &n));
    cr_expect_eq(n.rejected_count, 1);
    cr_expect_str_eq(n.rejected, "unsupported protocol");
    raw_fini(&c);
    net_fini(&n);
}

/* Nothing of it may stay behind: for the address sanitizer. */
Test(tls, the_server_goes_in_the_middle)
{
    struct raw c;
    struct net n;

    make_certs();
    net_init(&n, (struct tls_args){.cert_file = file("server.pem"), .key_file = file("server.key")},
             NULL);
    raw_init(&c, &n, TLS1_3_VERSION);
    SSL_do_handshake(c.ssl);
    raw_turn(&c, &n);
    dial(&n, (struct tls_args){.ca_file = file("ca.pem")}, HTTP_VERSION_2, NULL);
    loop_run_once(n.loop, 0);
    cr_expect_gt(http_server_counters(n.server)->connections, 0);
    net_fini(&n);
    raw_fini(&c);
}

/* ---- files that change ---- */

static bool reaches(struct net *n, const char *client, const char *ca)
{
    CLEANUP(freep) char *cert = client != NULL ? xasprintf("%s.pem", client) : NULL;
    CLEANUP(freep) char *key = client != NULL ? xasprintf("%s.key", client) : NULL;
    int r;

    dial(n,
         (struct tls_args){.cert_file = file(cert), .key_file = file(key), .ca_file = file(ca)},
         HTTP_VERSION_2, NULL);
    r = ask(n, "/cn", BYTES_EMPTY, NULL);
    hang_up(n);
    return r == 0;
}

static void copy_to(const char *to, const char *from)
{
    tls_file_replace(file(to), file(from));
}

Test(tls, files_are_loaded_again)
{
    struct net n, old;

    make_certs();
    copy_to("live.pem", "server.pem");
    copy_to("live.key", "server.key");
    copy_to("live-ca.pem", "ca.pem");
    copy_to("live.crl", "empty.crl");
    net_init(&n,
             (struct tls_args){.cert_file = file("live.pem"),
                               .key_file = file("live.key"),
                               .ca_file = file("live-ca.pem"),
                               .crl_file = file("live.crl")},
             NULL);
    cr_expect(reaches(&n, "alice", "ca.pem"));
    cr_expect(reaches(&n, "revoked", "ca.pem"));
    cr_expect_eq(n.reload_count, 0);

    /* a list that names one of them */
    copy_to("live.crl", "pem.crl");
    cr_expect(!reaches(&n, "revoked", "ca.pem"));
    cr_expect(reaches(&n, "alice", "ca.pem"));
    cr_expect_eq(n.reload_count, 1);
    cr_expect_eq(n.reload_errors, 0);

    /* a list that is none: the one before stays in force, and it is said once */
    copy_to("live.crl", "nonsense");
    cr_expect(!reaches(&n, "revoked", "ca.pem"));
    cr_expect(reaches(&n, "alice", "ca.pem"));
    cr_expect_eq(n.reload_errors, 1);
    cr_expect_not_null(strstr(n.reload_error, "there is no revocation list in it"));
    copy_to("live.crl", "pem.crl");

    /* another authority for clients */
    copy_to("live-ca.pem", "other-ca.pem");
    cr_expect(!reaches(&n, "alice", "ca.pem"));
    cr_expect(reaches(&n, "stranger", "ca.pem"));

    /* a certificate ahead of its key, then both; a connection goes on through it all */
    dial(&n,
         (struct tls_args){.cert_file = file("stranger.pem"),
                           .key_file = file("stranger.key"),
                           .ca_file = file("ca.pem")},
         HTTP_VERSION_2, NULL);
    cr_expect_eq(ask(&n, "/cn", BYTES_EMPTY, NULL), 0);
    old = n;
    n.reload_errors = 0;
    copy_to("live.pem", "server2.pem");
    cr_expect(reaches(&n, "stranger", "ca.pem"));
    cr_expect_eq(n.reload_errors, 1);
    cr_expect_not_null(strstr(n.reload_error, "private key does not match public key"));
    copy_to("live.key", "server2.key");
    cr_expect(reaches(&n, "stranger", "other-ca.pem"));
    cr_expect(!reaches(&n, "stranger", "ca.pem"));
    cr_expect_str_eq(n.reload_error, "");
    n.client = old.client;
    n.client_tls = old.client_tls;
    cr_expect_eq(ask(&n, "/cn", BYTES_EMPTY, NULL), 0);

    /* files that went away */
    hang_up(&n);
    cr_assert_eq(unlink(file("live.key")), 0);
    cr_assert_eq(unlink(file("live-ca.pem")), 0);
    cr_expect(reaches(&n, "stranger", "other-ca.pem"));
    net_fini(&n);
}

/* ---- self-signed ---- */

Test(tls, self_signed)
{
    CLEANUP(freep) char *error = NULL;
    struct stat first, second;
    struct net n;

    make_certs();
    cr_assert_eq(tls_make_self_signed(file("fixtures/x"), "127.0.0.1,localhost,::1,h.example", 1,
                                      &error),
                 0, "%s", error);
    cr_assert_eq(stat(file("fixtures/x/key.pem"), &first), 0);
    cr_expect_eq(first.st_mode & 0777, 0600);
    net_init(&n,
             (struct tls_args){.cert_file = file("fixtures/x/cert.pem"),
                               .key_file = file("fixtures/x/key.pem")},
             NULL);
    cr_expect(reaches(&n, NULL, "fixtures/x/cert.pem"));
    cr_expect(!reaches(&n, NULL, "ca.pem"));
    dial(&n, (struct tls_args){.ca_file = file("fixtures/x/cert.pem")}, HTTP_VERSION_2, "h.example");
    cr_expect_eq(ask(&n, "/cn", BYTES_EMPTY, NULL), 0);
    hang_up(&n);
    dial(&n, (struct tls_args){.skip_verify = true}, HTTP_VERSION_2, "elsewhere");
    cr_expect_eq(ask(&n, "/cn", BYTES_EMPTY, NULL), 0);
    net_fini(&n);

    /* kept while it is good */
    cr_assert_eq(tls_make_self_signed(file("fixtures/x"), "127.0.0.1", 1, &error), 0);
    cr_assert_eq(stat(file("fixtures/x/key.pem"), &second), 0);
    cr_expect_eq(first.st_ino, second.st_ino);
    copy_to("fixtures/x/cert.pem", "expired.pem");
    copy_to("fixtures/x/key.pem", "expired.key");
    cr_assert_eq(tls_make_self_signed(file("fixtures/x"), "127.0.0.1", 1, &error), 0);
    net_init(&n,
             (struct tls_args){.cert_file = file("fixtures/x/cert.pem"),
                               .key_file = file("fixtures/x/key.pem")},
             NULL);
    cr_expect(reaches(&n, NULL, "fixtures/x/cert.pem"));
    net_fini(&n);
    cr_expect_eq(tls_make_self_signed(file("fixtures/x"), "127.0.0.1", 0, &error), -EINVAL);
}
