/* See ctl.h: ending, asking the server, small helpers of the commands. */
#include "ctl/ctl.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>
#include "ctl/ctl_text.h"
#include "lib/loop/loop.h"
#include "lib/util/buf.h"
#include "lib/util/xmalloc.h"

void ctl_exit(int code)
{
    if (fflush(stdout) != 0 && code == 0)
        code = CTL_EXIT_ERROR;
    exit(code);
}

void ctl_die(enum ctl_exit code, const char *fmt, ...)
{
    va_list args;

    fflush(stdout);
    fputs("Error: ", stderr);
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    putc('\n', stderr);
    ctl_exit((int)code);
}

int ctl_try(struct ctl *c, const struct ctl_method *method, const void *request,
            ProtobufCMessage **ret, struct ctl_error *ret_error)
{
    struct ctl_client *client = ctl_connect(c); /* reads the time limits */

    return ctl_client_unary(client, method, request, c->command_ms, ret, ret_error);
}

void *ctl_ask(struct ctl *c, const struct ctl_method *method, const void *request)
{
    ProtobufCMessage *answer = NULL;
    struct ctl_error error = {0};

    if (ctl_try(c, method, request, &answer, &error) != 0)
        ctl_die(CTL_EXIT_ERROR, "%s", error.message);
    return answer;
}

void ctl_answer_free(void *answer)
{
    if (answer != NULL)
        protobuf_c_message_free_unpacked(answer, NULL);
}

const char *ctl_only_arg(const struct ctl_args *a, const char *error)
{
    if (a->argc != 1)
        ctl_die(CTL_EXIT_BAD_ARGS, "%s", error);
    return a->argv[0];
}

char *ctl_string(const char *text)
{
    return (char *)(uintptr_t)text;
}

ProtobufCBinaryData ctl_data(const char *text)
{
    return (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)text, .len = strlen(text)};
}

ProtobufCBinaryData ctl_zero_byte(void)
{
    static uint8_t zero;

    return (ProtobufCBinaryData){.data = &zero, .len = 1};
}

ProtobufCBinaryData ctl_prefix_end(ProtobufCBinaryData prefix)
{
    uint8_t *end;

    while (prefix.len > 0 && prefix.data[prefix.len - 1] == 0xff)
        prefix.len--;
    if (prefix.len == 0)
        return ctl_zero_byte();
    end = xmemdup(prefix.data, prefix.len);
    end[prefix.len - 1]++;
    return (ProtobufCBinaryData){.data = end, .len = prefix.len};
}

char *ctl_read_stdin(size_t *ret_len)
{
    struct buf text = BUF_INIT;
    size_t n;

    do {
        n = fread(buf_reserve(&text, 65536), 1, 65536, stdin);
        text.len += n;
    } while (n > 0);
    *ret_len = text.len;
    buf_append_u8(&text, 0);
    return (char *)text.data;
}

/* ---- words ---- */

static bool is_blank(char ch)
{
    return ch == ' ' || ch == '\t' || ch == '\r' || ch == '\n' || ch == '\v' || ch == '\f';
}

void ctl_words_free(char **words, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(words[i]);
    free(words);
}

/* A word runs to the next blank; one that starts with a quote to the matching quote. */
int ctl_split_words(const char *line, char ***ret, size_t *ret_count)
{
    char **words = NULL;
    size_t count = 0;

    for (const char *p = line; *p != '\0';) {
        char *word = NULL;

        if (is_blank(*p)) {
            p++;
            continue;
        }
        if (*p == '\'') {
            const char *end = strchr(p + 1, '\'');

            if (end == NULL) {
                p++; /* a quote alone is no part of a word */
                continue;
            }
            word = xstrndup(p + 1, (size_t)(end - p) - 1);
            p = end + 1;
        } else if (*p == '"') {
            struct buf text = BUF_INIT;
            const char *end = p + 1;

            while (*end != '\0' && *end != '"')
                end += *end == '\\' && end[1] != '\0' ? 2 : 1;
            if (*end == '\0') {
                p++;
                continue;
            }
            if (ctl_text_unquote(&p, &text) != 0) {
                buf_fini(&text);
                ctl_words_free(words, count);
                return -EINVAL;
            }
            buf_append_u8(&text, 0);
            word = (char *)text.data;
        } else {
            size_t len = 0;

            while (p[len] != '\0' && !is_blank(p[len]))
                len++;
            word = xstrndup(p, len);
            p += len;
        }
        words = xreallocarray(words, count + 1, sizeof(*words));
        words[count++] = word;
    }
    *ret = words;
    *ret_count = count;
    return 0;
}

/* ---- other programs, the terminal ---- */

static void on_child(void *user)
{
    (void)user; /* only to end the loop's wait */
}

static int wait_child(struct loop *loop, pid_t pid)
{
    struct loop_signal *sig = loop != NULL ? loop_signal_new(loop, SIGCHLD, on_child, NULL) : NULL;
    int status = 0;
    pid_t r;

    for (;;) {
        r = waitpid(pid, &status, loop != NULL ? WNOHANG : 0);
        if (r == pid || (r < 0 && errno != EINTR))
            break;
        if (loop != NULL)
            loop_run_once(loop, 200);
    }
    loop_signal_free(sig);
    return status;
}

int ctl_run(struct loop *loop, const char *const *argv, const char *const *env, size_t env_count,
            char **ret_error)
{
    int status = 0, report[2];
    int child_errno = 0;
    pid_t pid;

    fflush(stdout);
    fflush(stderr);
    if (pipe2(report, O_CLOEXEC) != 0) {
        *ret_error = xasprintf("%s", strerror(errno));
        return -1;
    }
    pid = fork();
    if (pid == 0) {
        for (size_t i = 0; i < env_count; i++)
            putenv((char *)(uintptr_t)env[i]);
        signal(SIGPIPE, SIG_DFL);
        execvp(argv[0], (char *const *)(uintptr_t)argv);
        child_errno = errno;
        if (write(report[1], &child_errno, sizeof(child_errno)) < 0)
            _exit(126);
        _exit(127);
    }
    close(report[1]);
    if (pid < 0) {
        close(report[0]);
        *ret_error = xasprintf("fork: %s", strerror(errno));
        return -1;
    }
    if (read(report[0], &child_errno, sizeof(child_errno)) <= 0)
        child_errno = 0;
    close(report[0]);
    status = wait_child(loop, pid);
    if (child_errno != 0) {
        *ret_error = child_errno == ENOENT && strchr(argv[0], '/') == NULL
                         ? xasprintf("exec: \"%s\": executable file not found in $PATH", argv[0])
                         : xasprintf("fork/exec %s: %s", argv[0], strerror(child_errno));
        return -1;
    }
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

char *ctl_signal_text(int signum)
{
    char *text = xasprintf("signal: %s", strsignal(signum));

    for (char *p = text; *p != '\0'; p++)
        if (*p >= 'A' && *p <= 'Z')
            *p = (char)(*p | 0x20);
    return text;
}

char *ctl_read_password(const char *prompt)
{
    struct termios saved;
    bool terminal = tcgetattr(STDIN_FILENO, &saved) == 0;
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;

    fputs(prompt, stdout);
    fflush(stdout);
    if (terminal) {
        struct termios quiet = saved;

        quiet.c_lflag &= (tcflag_t)~ECHO;
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &quiet);
    }
    len = getline(&line, &cap, stdin);
    if (terminal)
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &saved);
    putchar('\n');
    if (len < 0) {
        free(line);
        return NULL;
    }
    while (len > 0 && (line[len - 1] == '\n' || line[len - 1] == '\r'))
        line[--len] = '\0';
    return line;
}
