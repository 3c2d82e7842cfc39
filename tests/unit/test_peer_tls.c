/* Members with https:// peer URLs, and what strangers at such a port can do to them. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "lib/loop/loop.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "raftd/peer/peers.h"
#include "tests/unit/tls_certs.h"

enum { CLUSTER = 77, A = 1, B = 2, REVOKED = 31, BIG_BYTES = 3 << 20 };

static const char *dir;

static void remove_dir(void)
{
    tls_test_dir_remove(dir);
}

/* The timeout of the test ends a wait that never comes true. */
TestSuite(peer_tls, .timeout = 60, .fini = remove_dir);

struct end {
    struct loop *loop;
    struct peers *peers;
    uint64_t id;
    int port;
    const char *scheme;
    struct peer_tls_conf tls;
    char *run_dir;
    unsigned int frames;
    uint64_t bytes, sum;
};

static void on_frame(void *user, const struct peer_header *h, const struct peer_frame *f)
{
    struct end *e = user;

    if (f->type == PEER_HELLO)
        return;
    e->frames++;
    e->bytes += f->body.len;
    for (size_t i = 0; i < f->body.len; i++)
        e->sum = e->sum * 31 + f->body.data[i];
}

static void on_change(void *user, uint64_t id)
{
}

static const struct peers_ops ops = {
    .on_frame = on_frame, .on_up = on_change, .on_down = on_change};

static int free_port(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    cr_assert_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    cr_assert_eq(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
    close(fd);
    return ntohs(addr.sin_port);
}

static void make_certs(void)
{
    static const struct tls_cert_args certs[] = {
        {.name = "ca", .cn = "authority"},
        {.name = "other-ca", .cn = "another"},
        {.name = "member", .issuer = "ca", .cn = "member", .san = "IP:127.0.0.1,DNS:m.example"},
        {.name = "named", .issuer = "ca", .cn = "member", .san = "DNS:localhost"},
        {.name = "wild", .issuer = "ca", .cn = "member", .san = "DNS:*.invalid"},
        {.name = "away", .issuer = "ca", .cn = "member", .san = "IP:10.1.2.3"},
        {.name = "revoked", .issuer = "ca", .cn = "member", .san = "IP:127.0.0.1",
         .serial = REVOKED},
        {.name = "expired", .issuer = "ca", .cn = "member", .san = "IP:127.0.0.1", .expired = true},
        {.name = "foreign", .issuer = "other-ca", .cn = "member", .san = "IP:127.0.0.1"},
        {.name = "serves", .issuer = "ca", .cn = "member", .san = "IP:127.0.0.1",
         .usage = "serverAuth"},
    };
    const long serials[] = {REVOKED};

    dir = tls_test_dir();
    for (size_t i = 0; i < ARRAY_LEN(certs); i++) {
        struct tls_cert_args args = certs[i];

        args.dir = dir;
        tls_cert_make(&args);
    }
    tls_crl_make(dir, "list", "ca", serials, ARRAY_LEN(serials), true);
}

static char *in_dir(const char *name, const char *suffix)
{
    CLEANUP(freep) char *file_name = name != NULL ? xasprintf("%s%s", name, suffix) : NULL;

    return file_name != NULL ? (char *)tls_path(dir, file_name) : (char *)"";
}

static struct peer_tls_conf conf_of(const char *cert, const char *client_cert, const char *ca)
{
    return (struct peer_tls_conf){.cert_file = in_dir(cert, ".pem"),
                                  .key_file = in_dir(cert, ".key"),
                                  .client_cert_file = in_dir(client_cert, ".pem"),
                                  .client_key_file = in_dir(client_cert, ".key"),
                                  .ca_file = in_dir(ca, ".pem"),
                                  .crl_file = (char *)"",
                                  .allowed_cn = (char *)"",
                                  .allowed_hostname = (char *)"",
                                  .cipher_suites = (char *)"",
                                  .min_version = (char *)"",
                                  .max_version = (char *)""};
}

static struct url_list url_of(const struct end *e)
{
    CLEANUP(freep) char *url = xasprintf("%s://127.0.0.1:%d", e->scheme, e->port);
    struct url_list urls = {0};

    url_list_add(&urls, bytes_str(url));
    return urls;
}

static void start(struct end *e)
{
    struct url_list urls = url_of(e);
    struct peers_args args = {.loop = e->loop,
                              .listen_urls = &urls,
                              .self_urls = urls.items[0],
                              .cluster_id = CLUSTER,
                              .member_id = e->id,
                              .generation = 1,
                              .tls = &e->tls,
                              .run_dir = e->run_dir,
                              .ops = &ops,
                              .user = e};
    char *error = NULL;

    cr_assert_eq(peers_start(&args, &e->peers, &error), 0, "%s", error);
    url_list_fini(&urls);
}

static void start_new(struct end *e, struct loop *loop, uint64_t id, const char *scheme,
                      struct peer_tls_conf tls)
{
    *e = (struct end){.loop = loop,
                      .id = id,
                      .port = free_port(),
                      .scheme = scheme,
                      .tls = tls,
                      .run_dir = tls_test_dir()};
    start(e);
}

static void end_stop(struct end *e)
{
    peers_stop(e->peers);
    tls_test_dir_remove(e->run_dir);
    free(e->run_dir);
}

static void meet(struct end *a, const struct end *b)
{
    struct url_list urls = url_of(b);

    cr_assert_eq(peers_set(a->peers, b->id, &urls), 0);
    url_list_fini(&urls);
}

static void say(struct end *from, const struct end *to)
{
    struct buf *b = peers_begin(from->peers, to->id, PEER_LANE_MAIN, PEER_RAFT);

    if (b != NULL)
        peers_end(from->peers);
}

static void converse(struct end *a, struct end *b)
{
    unsigned int heard_a = a->frames, heard_b = b->frames;

    while (a->frames == heard_a || b->frames == heard_b) {
        say(a, b);
        say(b, a);
        loop_run_once(a->loop, 20);
    }
}

/* `to` hears `from`; or false: the relay of one of them gave up connections instead. */
static bool reaches(struct end *from, struct end *to)
{
    struct peers_totals x, y;

    do {
        say(from, to);
        loop_run_once(from->loop, 20);
        peers_get_totals(from->peers, &x);
        peers_get_totals(to->peers, &y);
        if (to->frames > 0)
            return true;
    } while (x.tls.failures < 3 && y.tls.failures < 3);
    return false;
}

Test(peer_tls, who_may_talk_to_whom)
{
    static const struct {
        const char *what;
        const char *scheme; /* of the caller's own URL */
        const char *cert, *client_cert, *ca; /* the caller's */
        const char *server, *server_ca;
        const char *allowed_cn, *allowed_hostname, *crl; /* of the one that is called */
        bool skip_san, auto_tls, works;
    } rows[] = {
        {"one certificate for both", "https", "member", NULL, "ca", "member", "ca", .works = true},
        {"its own for dialling", "https", "serves", "member", "ca", "member", "ca", .works = true},
        {"a plain listener dials TLS", "http", "member", NULL, "ca", "member", "ca", .works = true},
        {"nobody is asked", "http", NULL, NULL, "ca", "member", NULL, .works = true},
        {"a name that is the address", "https", "named", NULL, "ca", "member", "ca", .works = true},
        {"common name", "https", "member", NULL, "ca", "member", "ca", .allowed_cn = "x,member", .works = true},
        {"host name", "https", "member", NULL, "ca", "member", "ca", .allowed_hostname = "m.example",
         .works = true},
        {"addresses not compared", "https", "away", NULL, "ca", "member", "ca", .skip_san = true,
         .works = true},
        {"no proof of anything", "https", "foreign", NULL, NULL, "member", NULL, .auto_tls = true,
         .works = true},
        {"none given", "http", NULL, NULL, "ca", "member", "ca", .works = false},
        {"another authority", "https", "foreign", NULL, "ca", "member", "ca", .works = false},
        {"an unknown server", "https", "member", NULL, "other-ca", "member", "ca", .works = false},
        {"a server elsewhere", "https", "member", NULL, "ca", "away", "ca", .works = false},
        {"expired", "https", "expired", NULL, "ca", "member", "ca", .works = false},
        {"revoked", "https", "revoked", NULL, "ca", "member", "ca", .crl = "list", .works = false},
        {"another common name", "https", "member", NULL, "ca", "member", "ca", .allowed_cn = "x", .works = false},
        {"another host name", "https", "member", NULL, "ca", "member", "ca", .allowed_hostname = "member",
         .works = false},
        {"used from another address", "https", "away", NULL, "ca", "member", "ca", .works = false},
        {"a name that is not the address", "https", "wild", NULL, "ca", "member", "ca", .works = false},
    };

    make_certs();
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct loop *loop = loop_new();
        struct peer_tls_conf c = conf_of(rows[i].cert, rows[i].client_cert, rows[i].ca);
        struct peer_tls_conf s = conf_of(rows[i].server, NULL, rows[i].server_ca);
        struct end a, b;

        c.auto_tls = rows[i].auto_tls;
        s.skip_san = rows[i].skip_san;
        s.allowed_cn = (char *)(rows[i].allowed_cn != NULL ? rows[i].allowed_cn : "");
        s.allowed_hostname =
            (char *)(rows[i].allowed_hostname != NULL ? rows[i].allowed_hostname : "");
        s.crl_file = in_dir(rows[i].crl, ".crl");
        start_new(&a, loop, A, rows[i].scheme, c);
        start_new(&b, loop, B, "https", s);
        meet(&a, &b);
        cr_expect_eq(reaches(&a, &b), rows[i].works, "%s", rows[i].what);
        end_stop(&a);
        end_stop(&b);
        loop_free(loop);
    }
}

Test(peer_tls, much_data_and_a_member_that_comes_back)
{
    struct loop *loop;
    struct end a, b;
    uint64_t sum = 0;
    struct buf *body = NULL;

    make_certs();
    loop = loop_new();
    start_new(&a, loop, A, "https", conf_of("member", NULL, "ca"));
    start_new(&b, loop, B, "https", conf_of("member", NULL, "ca"));
    meet(&a, &b);
    meet(&b, &a);
    converse(&a, &b);
    while (!peers_is_up(a.peers, B))
        loop_run_once(loop, 20);
    b.sum = b.bytes = 0;
    for (int k = 0; k < 4; k++) {
        while ((body = peers_begin(a.peers, B, PEER_LANE_BULK, PEER_SNAP_CHUNK)) == NULL)
            loop_run_once(loop, 20);
        for (size_t i = 0; i < BIG_BYTES; i++) {
            uint8_t v = (uint8_t)(i * 7 + i / 253 + (size_t)k);

            buf_append_u8(body, v);
            sum = sum * 31 + v;
        }
        peers_end(a.peers);
    }
    while (b.bytes < 4 * (uint64_t)BIG_BYTES)
        loop_run_once(loop, 20);
    cr_expect_eq(b.sum, sum);

    /* another certificate for both, by another authority: seen when they meet again */
    peers_stop(b.peers);
    tls_file_replace(tls_path(dir, "member.pem"), tls_path(dir, "foreign.pem"));
    tls_file_replace(tls_path(dir, "member.key"), tls_path(dir, "foreign.key"));
    tls_file_replace(tls_path(dir, "ca.pem"), tls_path(dir, "other-ca.pem"));
    start(&b);
    meet(&b, &a);
    converse(&a, &b);
    end_stop(&a);
    end_stop(&b);
    loop_free(loop);
}

/* ---- strangers ---- */

static int call(const struct end *e)
{
    struct sockaddr_in addr = {.sin_family = AF_INET,
                               .sin_port = htons((uint16_t)e->port),
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    cr_assert_eq(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    return fd;
}

/* Says it in TLS, and goes when it is sent away, or at once. */
static void whisper(const struct end *e, SSL_CTX *ctx, const void *data, size_t len, bool wait)
{
    SSL *ssl = SSL_new(ctx);
    int fd = call(e);
    char answer[16];

    SSL_set_fd(ssl, fd);
    cr_assert_eq(SSL_connect(ssl), 1);
    if (len > 0)
        cr_assert_eq(SSL_write(ssl, data, (int)len), (int)len);
    while (wait && SSL_read(ssl, answer, sizeof(answer)) > 0)
        ;
    SSL_free(ssl);
    close(fd);
}

Test(peer_tls, strangers)
{
    static const struct {
        const char *data;
        size_t len;
        bool wait;
    } said[] = {
        {"", 0, false},
        {"\0SP\0\0", 5, false},
        {"\0SP\0\0\x50\0\0", 8, false},
        {"\0SP\0\0\x50\0\0\x01zzzzzzzzzzzzzzzzzzz", 24, true},
        {"\0SP\0\0\x50\0\0\x01\0\0\0\0\0\0\0\x05zzzzz", 22, false},
        {"\0SP\0\0\x51\0\0", 8, true},
        {"GET / HTTP/1.1\r\n\r\n", 18, true},
    };
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    struct loop *loop;
    struct end a, b;
    int idle[300];

    make_certs();
    loop = loop_new();
    /* without mutual TLS, so that they come in at all */
    start_new(&a, loop, A, "https", conf_of("member", NULL, NULL));
    a.tls.auto_tls = true;
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < ARRAY_LEN(said); i++)
            whisper(&a, ctx, said[i].data, said[i].len, said[i].wait);
        loop_run_once(loop, 0);
    }
    for (size_t i = 0; i < ARRAY_LEN(idle); i++) {
        idle[i] = call(&a);
        cr_assert_eq(send(idle[i], i % 2 == 0 ? "GET /" : "\x16\x03\x01\x02", 4, MSG_NOSIGNAL), 4);
    }
    start_new(&b, loop, B, "https", conf_of("member", NULL, "ca"));
    meet(&b, &a);
    while (a.frames == 0) {
        say(&b, &a);
        loop_run_once(loop, 20);
    }
    for (size_t i = 0; i < ARRAY_LEN(idle); i++)
        close(idle[i]);
    end_stop(&a);
    end_stop(&b);
    loop_free(loop);
    SSL_CTX_free(ctx);
}

Test(peer_tls, what_cannot_be_started)
{
    struct loop *loop = loop_new();
    struct end e = {.loop = loop, .id = A, .scheme = "https", .port = free_port()};
    struct url_list urls = url_of(&e);
    struct peers_args args = {
        .loop = loop, .listen_urls = &urls, .self_urls = "", .ops = &ops, .user = &e};
    CLEANUP(freep) char *none = NULL;
    CLEANUP(freep) char *wrong = NULL;
    CLEANUP(freep) char *taken = NULL;
    struct end a;

    make_certs();
    args.run_dir = dir;
    e.tls = conf_of(NULL, NULL, NULL);
    args.tls = &e.tls;
    cr_expect_lt(peers_start(&args, &e.peers, &none), 0);
    cr_expect_not_null(strstr(none, "KeyFile and CertFile are not presented"), "%s", none);
    e.tls = conf_of("member", NULL, "nothing");
    cr_expect_lt(peers_start(&args, &e.peers, &wrong), 0);
    cr_expect_not_null(strstr(wrong, "nothing.pem: no such file"), "%s", wrong);
    start_new(&a, loop, B, "https", conf_of("member", NULL, "ca"));
    e.tls = conf_of("member", NULL, "ca");
    url_list_fini(&urls);
    urls = url_of(&a);
    cr_expect_lt(peers_start(&args, &e.peers, &taken), 0);
    cr_expect_not_null(strstr(taken, "Address already in use"), "%s", taken);
    end_stop(&a);
    url_list_fini(&urls);
    loop_free(loop);
}
