/*
 * The other process of tests/unit/test_ipc.c: ipc_peer URL listen|dial serve|send
 *   serve: echoes every frame, dies of SIGKILL on a DIE frame
 *   send: sends 20000 frames when up, and stops
 * A program of its own because nng, which Criterion uses too, does not survive a fork.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include "lib/ipc/ipc.h"
#include "lib/loop/loop.h"

enum { TYPE_DATA = 16, TYPE_ECHO, TYPE_DIE };

static struct ipc_link *peer_link;
static bool up;

static void fill_hello(void *user, struct buf *body)
{
    buf_append(body, "child", 5);
}

static int on_hello(void *user, struct bytes body)
{
    return 0;
}

static void on_up(void *user)
{
    up = true;
}

static void on_down(void *user)
{
    up = false;
}

static void on_frame(void *user, const struct ipc_frame *frame)
{
    if (frame->type == TYPE_DIE)
        raise(SIGKILL);
    ipc_link_send(peer_link, TYPE_ECHO, frame->id, frame->body);
}

static const struct ipc_link_ops ops = {fill_hello, on_hello, on_up, on_down, on_frame, NULL};

int main(int argc, char **argv)
{
    struct ipc_link_args args = {.loop = loop_new(), .name = "peer", .ops = &ops};
    uint8_t body[200];

    if (argc != 4)
        return EXIT_FAILURE;
    args.url = argv[1];
    args.listen = strcmp(argv[2], "listen") == 0;
    if (ipc_link_start(&args, &peer_link) < 0)
        return EXIT_FAILURE;
    if (strcmp(argv[3], "serve") == 0)
        loop_run(args.loop);
    while (!up)
        loop_run_once(args.loop, 1000);
    for (uint64_t id = 0; id < 20000; id++) {
        for (size_t i = 0; i < sizeof(body); i++)
            body[i] = (uint8_t)(i + id);
        ipc_link_send(peer_link, TYPE_DATA, id, bytes_of(body, sizeof(body)));
    }
    ipc_link_stop(peer_link, 20000);
    loop_free(args.loop);
    return EXIT_SUCCESS;
}
