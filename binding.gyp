{
  "variables": {"static_runtime%": "false"},
  "targets": [
    {
      "target_name": "weightcast",
      "sources": [
        "native/addon.cc",
        "native/bridge/arguments.cc",
        "native/bridge/async.cc",
        "native/bridge/collective_objects.cc",
        "native/bridge/device_objects.cc",
        "native/bridge/fabric_objects.cc",
        "native/bridge/memory_objects.cc",
        "native/collective/broadcast_copy.cc",
        "native/collective/membership.cc",
        "native/collective/nccl.cc",
        "native/collective/nccl_collective.cc",
        "native/collective/shm_collective.cc",
        "native/device/cuda/context.cc",
        "native/device/cuda/cuda_device.cc",
        "native/device/cuda/driver.cc",
        "native/device/cuda/gpu_digest.cc",
        "native/device/cuda/stream_worker.cc",
        "native/device/cuda/upload.cc",
        "native/device/host_device.cc",
        "native/fabric/acceptor.cc",
        "native/fabric/address.cc",
        "native/fabric/connector.cc",
        "native/fabric/control.cc",
        "native/fabric/exposure.cc",
        "native/fabric/fabric.cc",
        "native/fabric/handshake.cc",
        "native/fabric/peer.cc",
        "native/fabric/read.cc",
        "native/fabric/shm_carrier.cc",
        "native/fabric/tcp_carrier.cc",
        "native/fabric/verbs/lane_setup.cc",
        "native/fabric/verbs/libibverbs.cc",
        "native/fabric/verbs/queue_pair.cc",
        "native/fabric/verbs/verbs_carrier.cc",
        "native/fabric/verbs/verbs_device.cc",
        "native/memory/copy.cc",
        "native/memory/digest.cc",
        "native/memory/mapped_access.cc",
        "native/memory/mapping.cc",
        "native/memory/segment_jobs.cc",
        "native/memory/shared_directory.cc",
        "native/memory/thread_pool.cc",
        "native/system/base.cc",
        "native/system/event_loop.cc",
        "native/system/process.cc",
        "native/system/threads.cc"
      ],
      "include_dirs": ["native"],
      "dependencies": ["<!(node -p \"require('node-addon-api').targets\"):node_addon_api_except_all"],
      # The second: a worker thread that is being terminated can no longer be thrown at; that must not end the process.
      "defines": ["NAPI_VERSION=8", "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS"],
      "cflags!": ["-O3"],
      "cflags_cc!": ["-std=gnu++17", "-std=gnu++20", "-fno-rtti"],
      "cflags_cc": ["-std=c++17", "-O2", "-Wall", "-Wextra", "-pthread", "-fvisibility=hidden"],
      "ldflags": ["-pthread"],
      # For machines with an older libstdc++ than that of the compiler; what is not used of it would ask for a newer glibc.
      "conditions": [
        ["static_runtime=='true'", {"ldflags": ["-static-libstdc++", "-Wl,--exclude-libs,ALL", "-Wl,--gc-sections"]}]
      ],
      # dlopen(3), which has a library of its own before glibc 2.34.
      "libraries": ["-ldl"]
    }
  ]
}
