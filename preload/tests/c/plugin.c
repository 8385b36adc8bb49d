// The plug-in of `deep.c`.
#include <stdlib.h>

void *make(size_t bytes) { return malloc(bytes); }
void release(void *block) { free(block); }
