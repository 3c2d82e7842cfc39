/*
 * txn: three blocks of lines from standard input, each ended by an empty line: comparisons,
 * requests when all hold, requests when not.
 *
 *   comparison := target "(" quoted-key ")" operator quoted-value
 *   target     := ver | version | c | create | m | mod | val | value | lease
 *   operator   := = | != | < | >          with blanks around it
 *   request    := a get, put or del command
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "ctl/cmd.h"
#include "ctl/ctl.h"
#include "ctl/ctl_text.h"
#include "ctl/print.h"
#include "lib/util/buf.h"
#include "lib/util/xmalloc.h"

/* ---- comparisons ---- */

static void skip_blanks(const char **p)
{
    *p += strspn(*p, " \t\r");
}

/* The three parts behind "(", as far as they are there; returns how many were. */
static int scan_compare(const char *p, struct buf *key, struct buf *op, struct buf *value)
{
    size_t len;

    skip_blanks(&p);
    if (ctl_text_unquote(&p, key) != 0)
        return 0;
    if (*p++ != ')')
        return 1;
    if (*p != ' ' && *p != '\t')
        return 1;
    skip_blanks(&p);
    len = strcspn(p, " \t\r");
    if (len == 0)
        return 1;
    buf_append(op, p, len);
    p += len;
    skip_blanks(&p);
    return ctl_text_unquote(&p, value) != 0 ? 2 : 3;
}

/* 0, or -EINVAL: the value is no number, or the operator unknown; -ENOENT: unknown target. */
static int fill_compare(Etcdserverpb__Compare *cmp, const char *target, const char *op,
                        const struct buf *value)
{
    static const struct {
        const char *op;
        Etcdserverpb__Compare__CompareResult result;
    } ops[] = {{"=", ETCDSERVERPB__COMPARE__COMPARE_RESULT__EQUAL},
               {"!=", ETCDSERVERPB__COMPARE__COMPARE_RESULT__NOT_EQUAL},
               {">", ETCDSERVERPB__COMPARE__COMPARE_RESULT__GREATER},
               {"<", ETCDSERVERPB__COMPARE__COMPARE_RESULT__LESS}};
    CLEANUP(freep) char *text = xstrndup((const char *)value->data, value->len);
    CLEANUP(freep) char *why = NULL;
    size_t i;

    if (strcmp(target, "ver") == 0 || strcmp(target, "version") == 0) {
        cmp->target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__VERSION;
        cmp->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_VERSION;
        if (ctl_parse_int(text, 10, &cmp->version, &why) != 0)
            return -EINVAL;
    } else if (strcmp(target, "c") == 0 || strcmp(target, "create") == 0) {
        cmp->target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__CREATE;
        cmp->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_CREATE_REVISION;
        if (ctl_parse_int(text, 10, &cmp->create_revision, &why) != 0)
            return -EINVAL;
    } else if (strcmp(target, "m") == 0 || strcmp(target, "mod") == 0) {
        cmp->target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__MOD;
        cmp->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_MOD_REVISION;
        if (ctl_parse_int(text, 10, &cmp->mod_revision, &why) != 0)
            return -EINVAL;
    } else if (strcmp(target, "val") == 0 || strcmp(target, "value") == 0) {
        cmp->target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__VALUE;
        cmp->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_VALUE;
        cmp->value.data =
            xmemdup(value->data != NULL ? value->data : (const uint8_t *)"", value->len);
        cmp->value.len = value->len;
    } else if (strcmp(target, "lease") == 0) {
        /* etcdctl itself crashes here; ids are hexadecimal everywhere else */
        cmp->target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__LEASE;
        cmp->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_LEASE;
        if (ctl_parse_int(text, 16, &cmp->lease, &why) != 0)
            return -EINVAL;
    } else {
        return -ENOENT;
    }
    for (i = 0; i < ARRAY_LEN(ops); i++)
        if (strcmp(op, ops[i].op) == 0) {
            cmp->result = ops[i].result;
            return 0;
        }
    return -EINVAL;
}

int cmd_txn_parse_compare(const char *line, Etcdserverpb__Compare *ret, char **ret_error)
{
    const char *paren = strchr(line, '(');
    CLEANUP(freep) char *target = NULL;
    struct buf key CLEANUP(buf_fini) = BUF_INIT, op CLEANUP(buf_fini) = BUF_INIT,
                   value CLEANUP(buf_fini) = BUF_INIT;
    int n, r;

    if (paren == NULL) {
        *ret_error = xasprintf("malformed comparison: %s", line);
        return -EINVAL;
    }
    target = xstrndup(line, (size_t)(paren - line));
    n = scan_compare(paren + 1, &key, &op, &value);
    buf_append_u8(&op, 0);
    if (n != 3) {
        struct buf text = BUF_INIT;

        if (n < 1)
            buf_clear(&key);
        buf_appendf(&text, "malformed comparison: %s; got %s(", line, target);
        ctl_text_quote(&text, key.data, key.len);
        buf_appendf(&text, ") %s \"\"", (const char *)op.data);
        buf_append_u8(&text, 0);
        *ret_error = (char *)text.data;
        return -EINVAL;
    }
    *ret = (Etcdserverpb__Compare)ETCDSERVERPB__COMPARE__INIT;
    r = fill_compare(ret, target, (const char *)op.data, &value);
    if (r == -ENOENT)
        *ret_error = xasprintf("malformed comparison: %s (unknown target %s)", line, target);
    else if (r != 0)
        *ret_error = xasprintf("invalid txn compare request: %s", line);
    if (r != 0)
        return -EINVAL;
    ret->key.data = xmemdup(key.data != NULL ? key.data : (const uint8_t *)"", key.len);
    ret->key.len = key.len;
    return 0;
}

/* ---- requests ---- */

int cmd_txn_parse_op(const char *line, Etcdserverpb__RequestOp *ret, char **ret_error)
{
    static const struct ctl_command *const children[] = {&cmd_put, &cmd_get, &cmd_del, NULL};
    static const struct ctl_command parent = {.use = "", .children = children};
    const struct ctl_command *command;
    struct ctl_args *a = xcalloc(1, sizeof(*a)); /* the request borrows from it */
    char **words = NULL;
    size_t count = 0;

    if (ctl_split_words(line, &words, &count) != 0 || count < 2) {
        *ret_error = xasprintf("invalid txn compare request: %s", line);
        ctl_words_free(words, count);
        free(a);
        return -EINVAL;
    }
    *ret = (Etcdserverpb__RequestOp)ETCDSERVERPB__REQUEST_OP__INIT;
    command = ctl_command_find(&parent, words[0]);
    if (command == NULL || ctl_args_parse_flags(command, (const char *const *)words + 1, count - 1,
                                                a, ret_error) != CTL_PARSE_OK) {
        free(*ret_error);
        *ret_error = xasprintf("invalid txn request: %s", line);
        ctl_args_fini(a);
        free(a);
        ctl_words_free(words, count);
        return -EINVAL;
    }
    if (command == &cmd_put) {
        ret->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
        ret->request_put = xmalloc(sizeof(*ret->request_put));
        cmd_put_request(a, false, ret->request_put);
    } else if (command == &cmd_get) {
        ret->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
        ret->request_range = xmalloc(sizeof(*ret->request_range));
        cmd_get_request(a, ret->request_range);
    } else {
        ret->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_DELETE_RANGE;
        ret->request_delete_range = xmalloc(sizeof(*ret->request_delete_range));
        cmd_del_request(a, ret->request_delete_range);
    }
    return 0;
}

/* ---- the command ---- */

/* The next line without surrounding blanks; NULL at the end of a block. Dies at end of file. */
static char *next_line(void)
{
    char *line = NULL, *start;
    size_t cap = 0;
    ssize_t len = getline(&line, &cap, stdin);

    if (len <= 0 || line[len - 1] != '\n')
        ctl_die(CTL_EXIT_INVALID_INPUT, "EOF");
    while (len > 0 && strchr(" \t\r\n\v\f", line[len - 1]) != NULL)
        line[--len] = '\0';
    start = line + strspn(line, " \t\r\v\f");
    if (*start == '\0') {
        free(line);
        return NULL;
    }
    memmove(line, start, strlen(start) + 1);
    return line;
}

static void read_compares(Etcdserverpb__TxnRequest *request)
{
    for (char *line, *why = NULL; (line = next_line()) != NULL; free(line)) {
        Etcdserverpb__Compare *cmp = xcalloc(1, sizeof(*cmp));

        if (cmd_txn_parse_compare(line, cmp, &why) != 0)
            ctl_die(CTL_EXIT_INVALID_INPUT, "%s", why);
        request->compare = xreallocarray(request->compare, request->n_compare + 1, sizeof(cmp));
        request->compare[request->n_compare++] = cmp;
    }
}

static void read_ops(Etcdserverpb__RequestOp ***ops, size_t *count)
{
    for (char *line, *why = NULL; (line = next_line()) != NULL; free(line)) {
        Etcdserverpb__RequestOp *op = xcalloc(1, sizeof(*op));

        if (cmd_txn_parse_op(line, op, &why) != 0)
            ctl_die(CTL_EXIT_INVALID_INPUT, "%s", why);
        *ops = xreallocarray(*ops, *count + 1, sizeof(op));
        (*ops)[(*count)++] = op;
    }
}

static int run_txn(struct ctl *c, struct ctl_args *a)
{
    Etcdserverpb__TxnRequest request = ETCDSERVERPB__TXN_REQUEST__INIT;
    Etcdserverpb__TxnResponse *answer;
    bool interactive = ctl_args_bool(a, "interactive");

    if (a->argc != 0)
        ctl_die(CTL_EXIT_BAD_ARGS, "txn command does not accept argument");
    ctl_connect(c);
    if (interactive) {
        puts("compares:");
        fflush(stdout);
    }
    read_compares(&request);
    if (interactive) {
        puts("success requests (get, put, del):");
        fflush(stdout);
    }
    read_ops(&request.success, &request.n_success);
    if (interactive) {
        puts("failure requests (get, put, del):");
        fflush(stdout);
    }
    read_ops(&request.failure, &request.n_failure);
    answer = ctl_ask(c, &ctl_method_txn, &request);
    print_txn(c, answer);
    ctl_answer_free(answer);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_flag txn_flags[] = {{.name = "interactive",
                                             .type = CTL_FLAG_BOOL,
                                             .initial = "false",
                                             .shorthand = 'i',
                                             .usage = "Input transaction in interactive mode"},
                                            CTL_FLAGS_END};
const struct ctl_command cmd_txn = {
    .use = "txn [options]",
    .summary = "Txn processes all the requests in one transaction",
    .flags = txn_flags,
    .run = run_txn,
};
