{
  "targets": [
    {
      "target_name": "weightcast",
      "sources": [
        "native/addon.cc",
        "native/bridge/arguments.cc",
        "native/bridge/device_buffer_object.cc",
        "native/bridge/endings.cc",
        "native/bridge/environment.cc",
        "native/bridge/error.cc",
        "native/bridge/host_device_object.cc",
        "native/bridge/mapping_object.cc",
        "native/bridge/settler.cc",
        "native/bridge/shared_directory_object.cc",
        "native/bridge/shm_collective_object.cc",
        "native/bridge/thread_pool_object.cc",
        "native/collective/control_file.cc",
        "native/collective/shm_collective.cc",
        "native/collective/source_cache.cc",
        "native/device/cuda/driver.cc",
        "native/device/host_device.cc",
        "native/device/ledger.cc",
        "native/memory/copy.cc",
        "native/memory/digest.cc",
        "native/memory/load.cc",
        "native/memory/mapping.cc",
        "native/memory/partition.cc",
        "native/memory/rectangle.cc",
        "native/memory/shared_directory.cc",
        "native/memory/stream_copy.cc",
        "native/memory/thread_pool.cc",
        "native/system/bell.cc",
        "native/system/byte_size.cc",
        "native/system/clock.cc",
        "native/system/failure.cc",
        "native/system/native_thread.cc",
        "native/system/process_identity.cc"
      ],
      "include_dirs": ["native"],
      "dependencies": ["<!(node -p \"require('node-addon-api').targets\"):node_addon_api_except_all"],
      # The second: a worker thread that is being terminated can no longer be thrown at; that must not end the process.
      "defines": ["NAPI_VERSION=8", "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS"],
      "cflags!": ["-O3"],
      "cflags_cc!": ["-std=gnu++17", "-std=gnu++20", "-fno-rtti"],
      "cflags_cc": ["-std=c++17", "-O2", "-Wall", "-Wextra", "-pthread", "-fvisibility=hidden"],
      "ldflags": ["-pthread"],
      # dlopen(3), which has a library of its own before glibc 2.34.
      "libraries": ["-ldl"]
    }
  ]
}
