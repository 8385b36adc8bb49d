// Frees a block twice, with others freed in between, and exits.
// double_free BYTES OTHERS
#include <stdlib.h>

int main(int count, char **arguments) {
    if (count < 3)
        return 2;
    size_t bytes = atoi(arguments[1]), others = atoi(arguments[2]);
    void *volatile victim = malloc(bytes);
    void **blocks = calloc(others, sizeof *blocks);
    for (size_t number = 0; number < others; number++)
        blocks[number] = malloc(bytes);
    free(victim);
    for (size_t number = 0; number < others; number++)
        free(blocks[number]);
    free(victim);
    return 0;
}
