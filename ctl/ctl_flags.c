/*
 * See ctl_flags.h. Finding the command comes first, with the flags skipped over: a flag that is
 * not known at that level and takes no "=" swallows the next word, as etcdctl's parser has it.
 * Then everything else on the line is parsed with the flags of the command that was found.
 */
#include "ctl/ctl_flags.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include "lib/util/buf.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

static const struct ctl_flag flag_help = {
    .name = "help", .type = CTL_FLAG_BOOL, .initial = "false", .shorthand = 'h'};

/* ---- values ---- */

static int parse_error(char **ret_error, const char *func, const char *text, const char *why)
{
    *ret_error = xasprintf("strconv.%s: parsing \"%s\": %s", func, text, why);
    return -EINVAL;
}

/* The digits of `text` in `base` (0: by prefix), as a magnitude. 0, -EINVAL or -ERANGE. */
static int parse_magnitude(const char *text, int base, uint64_t *ret)
{
    uint64_t value = 0;
    bool range = false;

    if (base == 0) {
        base = 10;
        if (text[0] == '0' && text[1] != '\0') {
            static const struct {
                char letter;
                int base;
            } prefixes[] = {{'x', 16}, {'b', 2}, {'o', 8}};

            base = 8;
            for (size_t i = 0; i < ARRAY_LEN(prefixes); i++)
                if ((text[1] | 0x20) == prefixes[i].letter) {
                    base = prefixes[i].base;
                    text += 2;
                    break;
                }
        }
    }
    if (*text == '\0')
        return -EINVAL;
    for (; *text != '\0'; text++) {
        int digit;

        if (*text >= '0' && *text <= '9')
            digit = *text - '0';
        else if ((*text | 0x20) >= 'a' && (*text | 0x20) <= 'z')
            digit = (*text | 0x20) - 'a' + 10;
        else
            return -EINVAL;
        if (digit >= base)
            return -EINVAL;
        if (value > (UINT64_MAX - (uint64_t)digit) / (uint64_t)base)
            range = true;
        else
            value = value * (uint64_t)base + (uint64_t)digit;
    }
    *ret = value;
    return range ? -ERANGE : 0;
}

int ctl_parse_int(const char *text, int base, int64_t *ret, char **ret_error)
{
    bool negative = text[0] == '-';
    uint64_t magnitude = 0;
    int r = parse_magnitude(negative || text[0] == '+' ? text + 1 : text, base, &magnitude);

    if (r == -EINVAL)
        return parse_error(ret_error, "ParseInt", text, "invalid syntax");
    if (r != 0 || magnitude > (uint64_t)INT64_MAX + (negative ? 1 : 0))
        return parse_error(ret_error, "ParseInt", text, "value out of range");
    *ret = negative ? (int64_t)(0 - magnitude) : (int64_t)magnitude;
    return 0;
}

int ctl_parse_uint(const char *text, int base, uint64_t *ret, char **ret_error)
{
    int r = parse_magnitude(text, base, ret);

    if (r == -EINVAL)
        return parse_error(ret_error, "ParseUint", text, "invalid syntax");
    if (r != 0)
        return parse_error(ret_error, "ParseUint", text, "value out of range");
    return 0;
}

int ctl_parse_bool(const char *text, bool *ret, char **ret_error)
{
    static const char *const yes[] = {"1", "t", "T", "true", "TRUE", "True"};
    static const char *const no[] = {"0", "f", "F", "false", "FALSE", "False"};

    for (size_t i = 0; i < ARRAY_LEN(yes); i++) {
        if (strcmp(text, yes[i]) == 0 || strcmp(text, no[i]) == 0) {
            *ret = strcmp(text, yes[i]) == 0;
            return 0;
        }
    }
    return parse_error(ret_error, "ParseBool", text, "invalid syntax");
}

/* A unit's nanoseconds and the length of its name; 0 when there is none. */
static double duration_unit(const char *p, size_t *ret_len)
{
    static const struct {
        const char *name;
        double ns;
    } units[] = {{"ns", 1},  {"us", 1e3}, {"\xc2\xb5s", 1e3}, {"ms", 1e6},
                 {"s", 1e9}, {"m", 6e10}, {"h", 3.6e12}};
    size_t len = strcspn(p, ".0123456789");

    for (size_t i = 0; i < ARRAY_LEN(units); i++)
        if (strlen(units[i].name) == len && memcmp(p, units[i].name, len) == 0) {
            *ret_len = len;
            return units[i].ns;
        }
    *ret_len = len;
    return 0;
}

int ctl_parse_duration(const char *text, int64_t *ret_ns, char **ret_error)
{
    const char *p = text;
    double total = 0;
    bool negative = false;

    if (*p == '-' || *p == '+')
        negative = *p++ == '-';
    if (strcmp(p, "0") == 0) {
        *ret_ns = 0;
        return 0;
    }
    if (*p == '\0')
        goto invalid;
    while (*p != '\0') {
        double number = 0, scale = 1, unit;
        bool digits = false;
        size_t len;

        for (; *p >= '0' && *p <= '9'; p++, digits = true)
            number = number * 10 + (*p - '0');
        if (*p == '.')
            for (p++; *p >= '0' && *p <= '9'; p++, digits = true)
                number += (*p - '0') * (scale /= 10);
        if (!digits)
            goto invalid;
        unit = duration_unit(p, &len);
        if (len == 0) {
            *ret_error = xasprintf("time: missing unit in duration \"%s\"", text);
            return -EINVAL;
        }
        if (unit == 0) {
            *ret_error =
                xasprintf("time: unknown unit \"%.*s\" in duration \"%s\"", (int)len, p, text);
            return -EINVAL;
        }
        p += len;
        total += number * unit;
    }
    if (total > 9.2e18)
        goto invalid;
    *ret_ns = negative ? -(int64_t)total : (int64_t)total;
    return 0;
invalid:
    *ret_error = xasprintf("time: invalid duration \"%s\"", text);
    return -EINVAL;
}

/* ---- commands ---- */

size_t ctl_command_name(const struct ctl_command *command, const char **ret)
{
    *ret = command->use;
    return strcspn(command->use, " ");
}

const struct ctl_command *ctl_command_find(const struct ctl_command *parent, const char *name)
{
    const struct ctl_command *found = NULL;
    size_t len = strlen(name), matches = 0;

    for (size_t i = 0; parent->children != NULL && parent->children[i] != NULL; i++) {
        const char *own;
        size_t own_len = ctl_command_name(parent->children[i], &own);

        if (own_len == len && memcmp(own, name, len) == 0)
            return parent->children[i];
        if (len > 0 && own_len > len && memcmp(own, name, len) == 0) {
            found = parent->children[i];
            matches++;
        }
    }
    return matches == 1 ? found : NULL;
}

static const struct ctl_flag *flag_find(const struct ctl_flag *flags, const char *name, size_t len)
{
    for (; flags != NULL && flags->name != NULL; flags++)
        if (strlen(flags->name) == len && memcmp(flags->name, name, len) == 0)
            return flags;
    return NULL;
}

static const struct ctl_flag *flag_find_short(const struct ctl_flag *flags, char letter)
{
    for (; flags != NULL && flags->name != NULL; flags++)
        if (flags->shorthand == letter && letter != '\0')
            return flags;
    return NULL;
}

/* Does this word, a flag, take the next one as its value? Unknown flags do. */
static bool word_takes_next(const struct ctl_command *command, const struct ctl_flag *globals,
                            const char *word)
{
    const struct ctl_flag *flag;

    if (strchr(word, '=') != NULL)
        return false;
    if (word[1] == '-') {
        size_t len = strlen(word + 2);

        flag = flag_find(command->flags, word + 2, len);
        if (flag == NULL)
            flag = flag_find(globals, word + 2, len);
        if (flag == NULL && strcmp(word, "--help") == 0)
            flag = &flag_help;
        return flag == NULL || flag->type != CTL_FLAG_BOOL;
    }
    if (strlen(word) != 2)
        return false;
    flag = flag_find_short(command->flags, word[1]);
    if (flag == NULL)
        flag = flag_find_short(globals, word[1]);
    if (flag == NULL && word[1] == 'h')
        flag = &flag_help;
    return flag == NULL || flag->type != CTL_FLAG_BOOL;
}

/* The index of the first word that is no flag, or count. */
static size_t first_plain(const struct ctl_command *command, const struct ctl_flag *globals,
                          const char *const *words, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(words[i], "--") == 0)
            return count;
        if (words[i][0] == '-' && words[i][1] != '\0') {
            if (word_takes_next(command, globals, words[i]))
                i++;
            continue;
        }
        if (words[i][0] != '\0' && words[i][0] != '-')
            return i;
    }
    return count;
}

/* The number of edits between two words, letters of either case being one. */
static size_t edit_distance(const char *a, size_t a_len, const char *b, size_t b_len)
{
    enum { WORD_MAX = 64 };
    size_t row[WORD_MAX + 1];

    if (a_len > WORD_MAX || b_len > WORD_MAX)
        return WORD_MAX;
    for (size_t j = 0; j <= b_len; j++)
        row[j] = j;
    for (size_t i = 1; i <= a_len; i++) {
        size_t diagonal = row[0];

        row[0] = i;
        for (size_t j = 1; j <= b_len; j++) {
            size_t above = row[j];
            size_t best = diagonal + ((a[i - 1] | 0x20) != (b[j - 1] | 0x20));

            best = MIN(best, MIN(above, row[j - 1]) + 1);
            diagonal = above;
            row[j] = best;
        }
    }
    return row[b_len];
}

static char *unknown_command(const struct ctl_command *root, const char *word)
{
    struct buf text = BUF_INIT;
    bool any = false;
    const char *program;
    size_t program_len = ctl_command_name(root, &program);

    buf_appendf(&text, "unknown command \"%s\" for \"%.*s\"", word, (int)program_len, program);
    for (size_t i = 0; root->children[i] != NULL; i++) {
        const char *name;
        size_t len = ctl_command_name(root->children[i], &name);

        if (root->children[i]->hidden)
            continue;
        if (edit_distance(word, strlen(word), name, len) > 2 &&
            strncasecmp(name, word, strlen(word)) != 0)
            continue;
        buf_appendf(&text, "%s\t%.*s\n", any ? "" : "\n\nDid you mean this?\n", (int)len, name);
        any = true;
    }
    buf_append_u8(&text, 0);
    return (char *)text.data;
}

/* ---- parsing ---- */

static void value_add(struct ctl_args *a, const struct ctl_flag *flag)
{
    struct ctl_flag_value *value = &a->values[a->value_count];
    char *error = NULL;

    assert(a->value_count < CTL_FLAGS_MAX);
    *value = (struct ctl_flag_value){.flag = flag, .text = flag->initial};
    a->value_count++;
    if (flag->type == CTL_FLAG_BOOL)
        ctl_parse_bool(flag->initial, &value->b, &error);
    else if (flag->type == CTL_FLAG_INT || flag->type == CTL_FLAG_UINT)
        ctl_parse_int(flag->initial, 0, &value->i, &error);
    else if (flag->type == CTL_FLAG_DURATION)
        ctl_parse_duration(flag->initial, &value->i, &error);
    assert(error == NULL); /* the table is ours */
}

static void values_init(struct ctl_args *a, const struct ctl_command *command,
                        const struct ctl_flag *globals)
{
    for (const struct ctl_flag *f = command->flags; f != NULL && f->name != NULL; f++)
        value_add(a, f);
    value_add(a, &flag_help);
    a->local_count = a->value_count;
    for (; globals != NULL && globals->name != NULL; globals++)
        value_add(a, globals);
}

/* 0, or -EINVAL with the reason alone. */
static int value_assign(struct ctl_flag_value *v, const char *text, char **ret_error)
{
    uint64_t u = 0;
    int r = 0;

    switch (v->flag->type) {
    case CTL_FLAG_STRING:
        break;
    case CTL_FLAG_BOOL:
        r = ctl_parse_bool(text, &v->b, ret_error);
        break;
    case CTL_FLAG_INT:
        r = ctl_parse_int(text, 0, &v->i, ret_error);
        break;
    case CTL_FLAG_UINT:
        r = ctl_parse_uint(text, 0, &u, ret_error);
        v->i = (int64_t)u;
        break;
    case CTL_FLAG_DURATION:
        r = ctl_parse_duration(text, &v->i, ret_error);
        break;
    case CTL_FLAG_LIST:
        if (v->given) {
            char *joined = xasprintf("%s,%s", v->text, text);

            free(v->owned);
            text = v->owned = joined;
        }
        break;
    }
    if (r != 0)
        return r;
    v->text = text;
    v->given = true;
    return 0;
}

static int value_set(struct ctl_flag_value *v, const char *text, char **ret_error)
{
    char *why = NULL;

    if (value_assign(v, text, &why) == 0)
        return 0;
    if (v->flag->shorthand != '\0')
        *ret_error = xasprintf("invalid argument \"%s\" for \"-%c, --%s\" flag: %s", text,
                               v->flag->shorthand, v->flag->name, why);
    else
        *ret_error =
            xasprintf("invalid argument \"%s\" for \"--%s\" flag: %s", text, v->flag->name, why);
    free(why);
    return -EINVAL;
}

static int parse_long(struct ctl_args *a, const char *word, const char *const **next, size_t *left,
                      char **ret_error)
{
    const char *name = word + 2;
    size_t len = strcspn(name, "=");
    const char *text = name[len] == '=' ? name + len + 1 : NULL;
    struct ctl_flag_value *v = NULL;

    if (len == 0 || name[0] == '-') {
        *ret_error = xasprintf("bad flag syntax: %s", word);
        return -EINVAL;
    }
    for (size_t i = 0; i < a->value_count && v == NULL; i++)
        if (strlen(a->values[i].flag->name) == len &&
            memcmp(a->values[i].flag->name, name, len) == 0)
            v = &a->values[i];
    if (v == NULL) {
        *ret_error = xasprintf("unknown flag: --%.*s", (int)len, name);
        return -EINVAL;
    }
    if (text == NULL && v->flag->type == CTL_FLAG_BOOL)
        text = "true";
    if (text == NULL) {
        if (*left == 0) {
            *ret_error = xasprintf("flag needs an argument: --%s", v->flag->name);
            return -EINVAL;
        }
        text = *(*next)++;
        (*left)--;
    }
    return value_set(v, text, ret_error);
}

static int parse_short(struct ctl_args *a, const char *word, const char *const **next, size_t *left,
                       char **ret_error)
{
    for (const char *p = word + 1; *p != '\0'; p++) {
        struct ctl_flag_value *v = NULL;
        const char *text;

        for (size_t i = 0; i < a->value_count && v == NULL; i++)
            if (a->values[i].flag->shorthand == *p)
                v = &a->values[i];
        if (v == NULL) {
            *ret_error = xasprintf("unknown shorthand flag: '%c' in -%s", *p, p);
            return -EINVAL;
        }
        if (p[1] == '=' && p[2] != '\0')
            return value_set(v, p + 2, ret_error);
        if (v->flag->type == CTL_FLAG_BOOL) {
            if (value_set(v, "true", ret_error) != 0)
                return -EINVAL;
            continue;
        }
        if (p[1] != '\0')
            return value_set(v, p + 1, ret_error);
        if (*left == 0) {
            *ret_error = xasprintf("flag needs an argument: '%c' in -%s", *p, p);
            return -EINVAL;
        }
        text = *(*next)++;
        (*left)--;
        return value_set(v, text, ret_error);
    }
    return 0;
}

static enum ctl_parse parse_words(struct ctl_args *a, const char *const *words, size_t count,
                                  char **ret_error)
{
    a->argv = xcalloc(count + 1, sizeof(*a->argv));
    a->dash = SIZE_MAX;
    while (count > 0) {
        const char *word = *words++;
        int r = 0;

        count--;
        if (word[0] != '-' || word[1] == '\0') {
            a->argv[a->argc++] = word;
            continue;
        }
        if (strcmp(word, "--") == 0) {
            a->dash = a->argc;
            while (count-- > 0)
                a->argv[a->argc++] = *words++;
            break;
        }
        r = word[1] == '-' ? parse_long(a, word, &words, &count, ret_error)
                           : parse_short(a, word, &words, &count, ret_error);
        if (r != 0)
            return CTL_PARSE_BAD_FLAG;
    }
    return CTL_PARSE_OK;
}

enum ctl_parse ctl_args_parse(const struct ctl_command *root, const struct ctl_flag *globals,
                              const char *const *argv, size_t argc, struct ctl_args *ret,
                              char **ret_error)
{
    const char **words = xcalloc(argc + 1, sizeof(*words));
    size_t count = argc;
    const struct ctl_command *command = root;
    enum ctl_parse r;

    if (argc > 0)
        memcpy(words, argv, argc * sizeof(*words));
    *ret = (struct ctl_args){0};
    for (;;) {
        size_t plain = first_plain(command, globals, words, count);
        const struct ctl_command *child =
            plain < count ? ctl_command_find(command, words[plain]) : NULL;

        if (child == NULL) {
            if (command == root && plain < count) {
                *ret_error = unknown_command(root, words[plain]);
                ret->command = root;
                free(words);
                return CTL_PARSE_UNKNOWN_COMMAND;
            }
            break;
        }
        assert(ret->depth < CTL_DEPTH_MAX);
        command = ret->path[ret->depth++] = child;
        memmove(words + plain, words + plain + 1, (count - plain - 1) * sizeof(*words));
        count--;
    }
    ret->command = command;
    values_init(ret, command, globals);
    r = parse_words(ret, words, count, ret_error);
    free(words);
    return r;
}

enum ctl_parse ctl_args_parse_flags(const struct ctl_command *command, const char *const *argv,
                                    size_t argc, struct ctl_args *ret, char **ret_error)
{
    *ret = (struct ctl_args){.command = command};
    values_init(ret, command, NULL);
    return parse_words(ret, argv, argc, ret_error);
}

void ctl_args_fini(struct ctl_args *a)
{
    for (size_t i = 0; i < a->value_count; i++)
        free(a->values[i].owned);
    free(a->argv);
    *a = (struct ctl_args){0};
}

/* ---- what was given ---- */

const struct ctl_flag_value *ctl_args_find(const struct ctl_args *a, const char *name)
{
    for (size_t i = 0; i < a->value_count; i++)
        if (strcmp(a->values[i].flag->name, name) == 0)
            return &a->values[i];
    return NULL;
}

const struct ctl_flag_value *ctl_args_flag(const struct ctl_args *a, const char *name)
{
    const struct ctl_flag_value *v = ctl_args_find(a, name);

    if (v == NULL)
        PANIC("no flag --%s here", name);
    return v;
}

bool ctl_args_bool(const struct ctl_args *a, const char *name)
{
    return ctl_args_flag(a, name)->b;
}

int64_t ctl_args_int(const struct ctl_args *a, const char *name)
{
    return ctl_args_flag(a, name)->i;
}

const char *ctl_args_string(const struct ctl_args *a, const char *name)
{
    return ctl_args_flag(a, name)->text;
}

bool ctl_args_given(const struct ctl_args *a, const char *name)
{
    return ctl_args_flag(a, name)->given;
}

int ctl_args_set(struct ctl_args *a, const char *name, const char *text, char **ret_error)
{
    for (size_t i = 0; i < a->value_count; i++)
        if (strcmp(a->values[i].flag->name, name) == 0)
            return value_set(&a->values[i], text, ret_error);
    PANIC("no flag --%s here", name);
}
