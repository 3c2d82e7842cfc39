/* Connections between members, and what strangers at the peer port can do to them. */
#include <criterion/criterion.h>
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "lib/loop/loop.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/wire.h"
#include "raftd/peer/peers.h"

enum { CLUSTER = 77, A = 1, B = 2 };

/* The timeout of the test ends a wait that never comes true. */
TestSuite(peers, .timeout = 60);
#define WAIT_FOR(loop, condition)                                                                  \
    do {                                                                                           \
        while (!(condition))                                                                       \
            loop_run_once((loop), 50);                                                             \
    } while (0)

struct end {
    struct loop *loop;
    struct peers *peers;
    uint64_t id;
    int port;
    unsigned int frames, ups, downs;
    uint64_t heard[PEER_LANE_COUNT]; /* the last number that settle() said */
};

static void on_frame(void *user, const struct peer_header *h, const struct peer_frame *f)
{
    struct end *e = user;
    struct wire_reader r = wire_reader(f->body);
    uint8_t lane = wire_get_u8(&r);
    uint64_t number = wire_get_u64(&r);

    if (f->type == PEER_HELLO)
        return;
    cr_assert_neq(h->from, e->id);
    cr_assert_eq(h->to, e->id);
    e->frames++;
    if (wire_reader_done(&r) == 0 && lane < PEER_LANE_COUNT)
        e->heard[lane] = number;
}

static void on_up(void *user, uint64_t id)
{
    ((struct end *)user)->ups++;
}

static void on_down(void *user, uint64_t id)
{
    ((struct end *)user)->downs++;
}

static const struct peers_ops ops = {.on_frame = on_frame, .on_up = on_up, .on_down = on_down};

/* A bound socket of loopback, not listening yet, and its port. */
static int bound(int *port)
{
    struct sockaddr_in addr = {.sin_family = AF_INET,
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                               .sin_port = htons((uint16_t)*port)};
    socklen_t len = sizeof(addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    cr_assert_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    cr_assert_eq(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
    *port = ntohs(addr.sin_port);
    return fd;
}

static struct url_list url_of(int port)
{
    CLEANUP(freep) char *url = xasprintf("http://127.0.0.1:%d", port);
    struct url_list urls = {0};

    url_list_add(&urls, bytes_str(url));
    return urls;
}

static uint64_t stuck_ms; /* of those started from now on; 0: as in raftd */

static void start(struct end *e, struct loop *loop, uint64_t id, int port)
{
    struct url_list urls = url_of(port);
    struct peers_args args = {.loop = loop,
                              .listen_urls = &urls,
                              .self_urls = urls.items[0],
                              .cluster_id = CLUSTER,
                              .member_id = id,
                              .generation = 1,
                              .stuck_ms = stuck_ms,
                              .ops = &ops,
                              .user = e};
    char *error = NULL;

    *e = (struct end){.loop = loop, .id = id, .port = port};
    cr_assert_eq(peers_start(&args, &e->peers, &error), 0, "%s", error);
    url_list_fini(&urls);
}

static void meet(struct end *a, struct end *b)
{
    struct url_list urls = url_of(b->port);

    cr_assert_eq(peers_set(a->peers, b->id, &urls), 0);
    url_list_fini(&urls);
}

static void say(struct end *from, struct end *to)
{
    struct buf *b = peers_begin(from->peers, to->id, PEER_LANE_MAIN, PEER_RAFT);

    if (b != NULL)
        peers_end(from->peers);
}

static int free_port(void)
{
    int port = 0;

    close(bound(&port));
    return port;
}

/* Both hear the other. */
static void converse(struct end *a, struct end *b)
{
    unsigned int heard_a = a->frames, heard_b = b->frames;

    while (a->frames == heard_a || b->frames == heard_b) {
        say(a, b);
        say(b, a);
        loop_run_once(a->loop, 50);
    }
}

static void say_number(struct end *from, struct end *to, enum peer_lane lane, uint64_t number)
{
    struct buf *b = peers_begin(from->peers, to->id, lane, PEER_RAFT);

    if (b == NULL)
        return;
    wire_put_u8(b, (uint8_t)lane);
    wire_put_u64(b, number);
    peers_end(from->peers);
}

static bool all_heard(const struct end *e, uint64_t number)
{
    for (int k = 0; k < PEER_LANE_COUNT; k++) {
        if (e->heard[k] != number)
            return false;
    }
    return true;
}

/* Until all four connections stand and nothing is on its way. To be called before one end stops:
 * nng before 1.6 never finishes a connection that it closes having read half of a message, nor any
 * other one of the process from then on; Criterion, which uses it too, then ends without a word. */
static void settle(struct end *a, struct end *b)
{
    enum { SAY_AGAIN_MS = 200 }; /* should a connection have ended meanwhile */
    static uint64_t number;

    do {
        uint64_t until = loop_now_ms(a->loop) + SAY_AGAIN_MS;

        number++;
        for (int k = 0; k < PEER_LANE_COUNT; k++) {
            say_number(a, b, (enum peer_lane)k, number);
            say_number(b, a, (enum peer_lane)k, number);
        }
        while (!(all_heard(a, number) && all_heard(b, number)) && loop_now_ms(a->loop) < until)
            loop_run_once(a->loop, 50);
    } while (!(all_heard(a, number) && all_heard(b, number)));
}

static void stop_both(struct end *a, struct end *b)
{
    settle(a, b);
    peers_stop(a->peers);
    peers_stop(b->peers);
    loop_free(a->loop);
}

Test(peers, two_members_converse_and_one_goes)
{
    struct loop *loop = loop_new();
    struct end a, b;

    start(&a, loop, A, free_port());
    start(&b, loop, B, free_port());
    meet(&a, &b);
    meet(&b, &a);
    converse(&a, &b);
    settle(&a, &b);
    peers_stop(b.peers);
    WAIT_FOR(loop, a.downs == 1);
    start(&b, loop, B, b.port);
    meet(&b, &a);
    converse(&a, &b);
    settle(&a, &b);
    peers_remove(a.peers, B);
    cr_assert_not(peers_has(a.peers, B));
    peers_stop(a.peers);
    peers_stop(b.peers);
    loop_free(loop);
}

/* Ends a connection with FIN and, at once, RST: whoever writes to it then gets EPIPE. */
static void hang_up(int fd)
{
    struct linger now = {.l_onoff = 1};

    shutdown(fd, SHUT_WR);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    close(fd);
}

Test(peers, callers_that_hang_up_do_not_deafen_the_listener)
{
    struct loop *loop = loop_new();
    struct end a, b;

    start(&a, loop, A, free_port());
    for (int i = 0; i < 200; i++) {
        struct sockaddr_in addr = {.sin_family = AF_INET,
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                   .sin_port = htons((uint16_t)a.port)};
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        connect(fd, (struct sockaddr *)&addr, sizeof(addr));
        hang_up(fd);
    }
    start(&b, loop, B, free_port());
    meet(&a, &b);
    meet(&b, &a);
    converse(&a, &b);
    stop_both(&a, &b);
}

Test(peers, a_listener_that_hangs_up_does_not_silence_the_dialer)
{
    struct loop *loop = loop_new();
    struct end a, b;
    int port = 0, fd = bound(&port);

    cr_assert_eq(listen(fd, 16), 0);
    start(&a, loop, A, free_port());
    b = (struct end){.id = B, .port = port};
    meet(&a, &b);
    for (int i = 0; i < 100; i++) {
        struct pollfd p = {.fd = fd, .events = POLLIN};

        if (poll(&p, 1, 500) == 0) /* more than the longest pause between calls: silenced */
            break;
        hang_up(accept4(fd, NULL, NULL, SOCK_CLOEXEC));
    }
    close(fd);
    start(&b, loop, B, port);
    meet(&b, &a);
    converse(&a, &b);
    stop_both(&a, &b);
}

/* Takes a connection as nng's pull sockets do, and reads nothing of what comes then. false: none. */
static bool take_and_ignore(int listener, int *ret_fd)
{
    static const uint8_t greeting[8] = {0, 'S', 'P', 0, 0, 0x51, 0, 0}; /* pull0 */

    *ret_fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (*ret_fd < 0)
        return false;
    cr_assert_eq(write(*ret_fd, greeting, sizeof(greeting)), sizeof(greeting));
    return true;
}

/* A connection that takes nothing is made anew while the member is heard over its own ones. That is
 * how one looks of whose end nng does not tell. */
Test(peers, a_connection_that_takes_nothing_is_made_anew)
{
    enum { TAKEN_MAX = 3 * PEER_LANE_COUNT, FRAMES = 24, FRAME_BYTES = 1 << 20 };
    struct loop *loop = loop_new();
    struct end a, b, deaf = {.id = B};
    int fd = bound(&deaf.port), taken[TAKEN_MAX];
    size_t count = 0, queued = 0;

    stuck_ms = 600;
    /* a: to somebody who says to be B; B itself only calls */
    cr_assert_eq(listen(fd, 16), 0);
    cr_assert_eq(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    start(&a, loop, A, free_port());
    start(&b, loop, B, free_port());
    meet(&b, &a);
    meet(&a, &deaf);
    while (count <= PEER_LANE_COUNT) {
        struct buf *out = NULL;

        if (queued < FRAMES) /* more than the sockets take */
            out = peers_begin(a.peers, B, PEER_LANE_MAIN, PEER_RAFT);
        if (out != NULL) {
            queued++;
            memset(buf_reserve(out, FRAME_BYTES), 0, FRAME_BYTES);
            out->len += FRAME_BYTES;
            peers_end(a.peers);
        }
        loop_run_once(loop, 50);
        while (count < TAKEN_MAX && take_and_ignore(fd, &taken[count]))
            count++;
    }
    while (count > 0)
        close(taken[--count]);
    close(fd);
    meet(&a, &b);
    stop_both(&a, &b);
}
